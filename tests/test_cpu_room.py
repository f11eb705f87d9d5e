"""The memory of a thread of the CPU kernels: every part has its place, and no two share one."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from geoattn.backends.cpu.emitted import LANES, TILE
from geoattn.backends.cpu.room import GROUPS, Layout, backward_layout, forward_layout

#: of int64 numbers, beside the keys of each group: what the lists of a tile count
COUNTS = {"both": GROUPS // 2, "counts": GROUPS, "dealt": GROUPS // 2 + GROUPS + 1}


def of_lists(element: int, capacity: int) -> dict[str, int]:
    sizes = dict.fromkeys(("tokens", "entries"), 4 * capacity)
    sizes |= dict.fromkeys(("keys", "places", "masks"), 4 * GROUPS * capacity)
    return {**sizes, "biases": element * GROUPS * capacity, **{name: 8 * n for name, n in COUNTS.items()}}


def check(places: dict[str, int], sizes: dict[str, int], end: int) -> None:
    """Parts of these sizes lie side by side, each on a cache line, and nothing else has a place but at 0."""
    used = sorted((places[name], places[name] + size, name) for name, size in sizes.items() if size)
    assert all(start % 64 == 0 for start, _, _ in used)
    for (_, stop, name), (start, _, other) in itertools.pairwise(used):
        assert stop <= start, (name, other)
    assert used[-1][1] <= end
    assert all(place == 0 for name, place in places.items() if name not in sizes)


def check_layout(
    layout: Layout, own: dict[str, int], held: dict[str, int], element: int, capacity: int
) -> None:
    check(layout.state._asdict(), own, layout.state_size)
    check(
        {**layout.listed._asdict(), **layout.room._asdict()},
        {**of_lists(element, capacity), **held},
        layout.size,
    )


small = st.integers(1, 40)


@given(
    element=st.sampled_from([4, 8]), depth=small, value_width=small, heads=small, capacity=small, packed=small
)
def test_parts_of_the_forward_pass_lie_apart(
    element: int, depth: int, value_width: int, heads: int, capacity: int, packed: int
) -> None:
    layout = forward_layout(element, depth, value_width, heads, capacity, packed)
    own = {"queries": depth, "sums": value_width, "totals": 1, "maxima": 1}
    held = {
        "states": heads * layout.state_size,
        "probabilities": 2 * capacity * LANES * element,
        "packed": packed * element,
        "before": TILE * element,
        "zeros": depth * element,
        "factor": element,
        "offsets": 4 * TILE,
    }
    check_layout(layout, {name: TILE * n * element for name, n in own.items()}, held, element, capacity)


@given(
    element=st.sampled_from([4, 8]),
    channels=st.tuples(small, small, small, small),
    heads=small,
    capacity=small,
    packed=st.tuples(small, small),
    n_keys=small,
    classes=small,
    pair_entries=st.integers(0, 40),
)
def test_parts_of_the_backward_pass_lie_apart(
    element: int,
    channels: tuple[int, int, int, int],
    heads: int,
    capacity: int,
    packed: tuple[int, int],
    n_keys: int,
    classes: int,
    pair_entries: int,
) -> None:
    layout = backward_layout(element, *channels, heads, capacity, *packed, n_keys, classes, pair_entries)
    depth, value_depth, key_width, value_width = channels
    own = {
        "queries": depth,
        "gradients": value_depth,
        "query_rows": key_width,
        "query_gradients": key_width,
        "gradient_rows": value_width,
        "levels": 1,
        "delta": 1,
    }
    assert layout.pair_gradients_size == pair_entries * TILE * element
    held = {
        "states": heads * layout.state_size,
        "probabilities": 2 * capacity * LANES * element,
        "score_gradients": 2 * capacity * LANES * element,
        "packed": packed[0] * element,
        "packed_gradients": packed[1] * element,
        "pair_gradients": heads * layout.pair_gradients_size,
        **dict.fromkeys(("to_base_two", "one", "factor"), element),
        **dict.fromkeys(("offsets", "gradient_offsets", "lanes_of_tile"), 4 * TILE),
        "slot_of_key": 4 * n_keys,
        "touched": classes,
    }
    check_layout(layout, {name: TILE * n * element for name, n in own.items()}, held, element, capacity)
