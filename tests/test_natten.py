"""NATTEN's calls on this package's operator, against a dense oracle and, where it is installed, NATTEN.

On a CPU NATTEN itself runs forward only; gradients are held by the oracle, which knows windows from their
definition alone.
"""

from __future__ import annotations

import inspect
import itertools
import os
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest
import torch

from geoattn.compat import _knobs
from geoattn.compat import natten as ours
from geoattn.compat.natten import functional, modules

CASES = [
    # shape, kernel, stride, dilation, causal, heads, key heads
    ((23,), (5,), (1,), (1,), (False,), 2, 2),
    ((24,), (6,), (3,), (2,), (False,), 4, 2),
    ((21,), (4,), (2,), (3,), (True,), 2, 1),
    ((12,), (12,), (5,), (1,), (True,), 2, 2),
    ((9, 14), (3, 5), (1, 2), (2, 1), (False, False), 2, 2),
    ((8, 11), (4, 3), (1, 1), (1, 2), (True, False), 2, 1),
    ((4, 5), (4, 5), (1, 1), (1, 1), (False, False), 2, 2),
    ((5, 6, 7), (3, 2, 5), (2, 1, 1), (1, 2, 1), (False, True, False), 2, 2),
]
IDS = [f"{case[0]}-{case[1]}" for case in CASES]
ATTEND = {1: ours.na1d, 2: ours.na2d, 3: ours.na3d}


@pytest.fixture
def natten():
    return pytest.importorskip(
        "natten", reason="NATTEN is not installed (pip install --no-deps --no-build-isolation natten)"
    )


# the oracle --------------------------------------------------------------------------------------


def seen(i, length, kernel, stride, dilation, causal):
    """Keys that token i of an axis sees, by the definition of NATTEN's windows."""
    residue, place, count = i % dilation, i // dilation, -(-(length - i % dilation) // dilation)
    leader = place // stride * stride
    if causal:
        centre = min(leader + stride - 1, count - 1)
        low, high = max(centre - kernel + 1, 0), place
    else:
        centre = min(leader + stride // 2, count - 1)
        low = min(max(centre - kernel // 2, 0), count - kernel)
        high = low + kernel - 1
    return [t * dilation + residue for t in range(low, high + 1)]


def windows(shape, kernel, stride, dilation, causal):
    """Flat indices of the keys of every token, in row-major order."""
    flat = torch.arange(torch.Size(shape).numel()).view(shape)
    rows = []
    for token in itertools.product(*map(range, shape)):
        axes = [seen(*each) for each in zip(token, shape, kernel, stride, dilation, causal, strict=True)]
        rows.append([int(flat[key]) for key in itertools.product(*axes)])
    return rows


def mask_of(rows, keys):
    mask = torch.zeros(len(rows), keys, dtype=torch.bool)
    for i, row in enumerate(rows):
        mask[i, row] = True
    return mask


def dense(q, k, v, mask, scale):
    """Attention of ``[B, tokens, H, D]`` over the keys of a mask ``[queries, keys]``, and its lse."""
    group = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * scale
    scores = scores.masked_fill(~mask, float("-inf"))
    lse = scores.logsumexp(-1)
    return torch.einsum("bhij,bjhd->bihd", (scores - lse[..., None]).exp(), v), lse.transpose(1, 2)


def assert_same_with_gradients(found, expected, operands):
    """Outputs, and gradients of a weighted sum of them, agree in float64."""
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y.view(x.shape), atol=1e-12, rtol=1e-10)
    gradients = [
        torch.autograd.grad(
            sum((x.flatten() * torch.arange(x.numel()).cos()).sum() for x in results), operands
        )
        for results in (found, expected)
    ]
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y, atol=1e-12, rtol=1e-10)


def randoms(*shapes, dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype, requires_grad=dtype == torch.float64) for shape in shapes]


# fused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [0, 3], ids=["alone", "with additional keys"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_windows_agree_with_the_oracle(case, extra):
    shape, *window, heads, key_heads = case
    q, k, v, more_k, more_v = operands = randoms(
        (2, *shape, heads, 4),
        (2, *shape, key_heads, 4),
        (2, *shape, key_heads, 6),
        (2, extra, key_heads, 4),
        (2, extra, key_heads, 6),
    )
    additional = {"additional_keys": more_k, "additional_values": more_v} if extra else {}
    found = ATTEND[len(shape)](q, k, v, *window, 0.4, **additional, return_lse=True)
    mask = mask_of(windows(shape, *window), torch.Size(shape).numel() + extra)
    mask[:, mask.shape[1] - extra :] = True
    keys, values = (torch.cat((x.flatten(1, -3), more), 1) for x, more in ((k, more_k), (v, more_v)))
    expected = dense(q.flatten(1, -3), keys, values, mask, 0.4)
    assert_same_with_gradients(found, expected, operands if extra else operands[:3])


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_windows_agree_with_natten(natten, case):
    shape, *window, heads, key_heads = case
    if (window[0], window[3]) == (shape, (True,)):
        pytest.skip("NATTEN has no causal attention over all keys on a CPU; the oracle has")
    attend = {1: natten.na1d, 2: natten.na2d, 3: natten.na3d}[len(shape)]
    sizes = [(2, *shape, heads, 16), *2 * [(2, *shape, key_heads, 16)], *2 * [(2, 3, key_heads, 16)]]
    q, k, v, more_k, more_v = randoms(*sizes, dtype=torch.float32)
    for additional in ({}, {"additional_keys": more_k, "additional_values": more_v}):
        with torch.no_grad():
            expected = attend(q, k, v, *window, **additional, return_lse=True)
        found = ATTEND[len(shape)](q, k, v, *window, **additional, return_lse=True)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        alone = ATTEND[len(shape)](q, k, v, *window, **additional)
        torch.testing.assert_close(alone, expected[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (9, 5), (5, 9)])
def test_attention_over_all_keys_agrees_with_the_oracle(queries, keys, causal):
    q, k, v = operands = randoms((2, queries, 4, 4), (2, keys, 2, 4), (2, keys, 2, 6))
    mask = torch.ones(queries, keys, dtype=torch.bool)
    found = ours.attention(q, k, v, is_causal=causal, return_lse=True)
    assert_same_with_gradients(found, dense(q, k, v, mask.tril() if causal else mask, 0.5), operands)


@pytest.mark.parametrize("causal", [False, True])
def test_sequences_in_one_batch_keep_to_themselves(causal):
    lengths = [(3, 5), (0, 0), (4, 2), (1, 1)]
    q, k, v = operands = randoms((1, 8, 2, 4), (1, 8, 2, 4), (1, 8, 2, 4))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    at_q = at_k = 0
    for n, m in lengths:
        block = torch.ones(n, m, dtype=torch.bool)
        mask[at_q : at_q + n, at_k : at_k + m] = block.tril() if causal else block
        at_q, at_k = at_q + n, at_k + m
    expected = dense(q, k, v, mask, 0.5)
    of_q, of_k = torch.tensor(lengths, dtype=torch.int32).T
    found = ours.attention(q, k, v, causal, seqlens_Q=of_q, seqlens_KV=of_k, return_lse=True)
    assert_same_with_gradients(found, expected, operands)
    sums = {
        f"cumulative_seqlen_{side}": torch.nn.functional.pad(of.cumsum(0), (1, 0)).int()
        for side, of in (("Q", of_q), ("KV", of_k))
    }
    again = ours.attention(q, k, v, causal, **sums, max_seqlen_Q=4, max_seqlen_KV=5)
    assert torch.equal(again, found[0])


def test_merging_gives_the_attention_over_all_keys():
    q, *parts = operands = randoms((2, 5, 2, 4), *[(2, n, 2, 4) for n in (3, 3, 1, 1, 6, 6)])
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    outs, lses = zip(*(ours.attention(q, k, v, return_lse=True) for k, v in pairs), strict=True)
    keys, values = (torch.cat(x, 1) for x in zip(*pairs, strict=True))
    expected = dense(q, keys, values, torch.ones(5, 10, dtype=torch.bool), 0.5)
    assert_same_with_gradients(ours.merge_attentions(list(outs), list(lses)), expected, operands)
    with pytest.raises(ValueError, match="at least two outputs, got 1"):
        ours.merge_attentions(outs[:1], lses[:1])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_modules_have_the_weights_and_outputs_of_nattens(natten, rank):
    name = f"NeighborhoodAttention{rank}D"
    settings = {"kernel_size": 3, "stride": 2, "dilation": 2, "is_causal": (True, *[False] * (rank - 1))}
    found = []
    for package in (natten, ours):
        torch.manual_seed(0)
        found.append(getattr(package, name)(32, 2, **settings, qk_scale=0.3))
    theirs, mine = found
    assert repr(theirs) == repr(mine)
    for a, b in zip(theirs.state_dict().items(), mine.state_dict().items(), strict=True):
        assert a[0] == b[0]
        assert torch.equal(a[1], b[1])
    x = torch.randn(2, *(6, 7, 8)[:rank], 32)
    with torch.no_grad():
        torch.testing.assert_close(mine(x), theirs(x), atol=1e-5, rtol=1e-4)
    mine(x).sum().backward()
    assert all(p.grad is not None for p in mine.parameters())


@pytest.mark.parametrize("name", [*ours.__all__])
def test_signatures_are_those_of_natten(natten, name):
    if name == "install":
        return
    theirs, mine = (
        inspect.signature(getattr(package, name)).parameters.values() for package in (natten, ours)
    )
    assert [(p.name, p.default, p.kind) for p in mine] == [(p.name, p.default, p.kind) for p in theirs]


def test_a_problem_of_nattens_own_list_is_within_its_bounds(monkeypatch):
    """All of them: python benchmarks/natten_problems.py."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    import natten_problems

    assert len(natten_problems.PROBLEMS) == 44
    found = natten_problems.run(natten_problems.PROBLEMS[11], (True,), 40)
    for dtype, bound in natten_problems.BOUNDS.items():
        differences = found[str(dtype).removeprefix("torch.")]
        assert set(differences) == {"out", "lse", "q", "k", "v"}
        assert max(differences.values()) < bound


# unfused -----------------------------------------------------------------------------------------

SCORES = {1: functional.na1d_qk, 2: functional.na2d_qk, 3: functional.na3d_qk}
SUMS = {1: functional.na1d_av, 2: functional.na2d_av, 3: functional.na3d_av}
UNFUSED = [
    # shape, kernel, dilation, causal
    ((11,), (3,), (2,), (False,)),
    ((9,), (4,), (2,), (True,)),
    ((6, 7), (3, 5), (2, 1), (False, False)),
    ((5, 6), (3, 2), (1, 2), (True, False)),
    ((4, 5, 6), (3, 2, 3), (1, 2, 1), (False, False, True)),
]


def heads_last(x):
    return x.movedim(1, -2)


@pytest.mark.parametrize("extra", [0, 3], ids=["alone", "with additional keys"])
@pytest.mark.parametrize("case", UNFUSED, ids=[f"{c[0]}-{c[1]}" for c in UNFUSED])
def test_scores_softmax_and_sums_are_fused_attention(case, extra):
    """Without a bias, the pair and a softmax between are the fused call, gradients too."""
    shape, kernel, dilation, causal = case
    rank = len(shape)
    sizes = [*2 * [(2, 3, *shape, 4)], (2, 3, *shape, 4), *2 * [(2, 3, extra, 4)]]
    q, k, v, more_k, more_v = operands = randoms(*sizes)
    keys, values = (more_k, more_v) if extra else (None, None)
    scores = SCORES[rank](q, k, kernel, dilation, keys, causal)
    assert scores.shape == (2, 3, *shape, torch.Size(kernel).numel() + extra)
    found = SUMS[rank](scores.softmax(-1), v, kernel, dilation, values, causal)
    additional = (
        {"additional_keys": heads_last(more_k), "additional_values": heads_last(more_v)} if extra else {}
    )
    expected = ATTEND[rank](*map(heads_last, (q, k, v)), kernel, 1, dilation, causal, 1.0, **additional)
    assert_same_with_gradients([heads_last(found)], [expected], operands if extra else operands[:3])


@pytest.mark.parametrize("case", UNFUSED, ids=[f"{c[0]}-{c[1]}" for c in UNFUSED])
def test_scores_stand_in_the_order_of_the_window_with_their_bias(case):
    shape, kernel, dilation, causal = case
    rank = len(shape)
    q, k, rpb = operands = randoms(*2 * [(2, 3, *shape, 4)], (3, *(2 * n - 1 for n in kernel)))
    found = SCORES[rank](q, k, kernel, dilation, is_causal=causal, rpb=rpb).flatten(2, -2)
    tokens = list(itertools.product(*map(range, shape)))
    picked, expected = [], []
    for i, token in enumerate(tokens):
        axes = [seen(*x) for x in zip(token, shape, kernel, [1] * rank, dilation, causal, strict=True)]
        places = itertools.product(*(range(len(axis)) for axis in axes))
        for place in places:
            slot = 0
            for at, size in zip(place, kernel, strict=True):
                slot = slot * size + at
            key = [axis[at] for axis, at in zip(axes, place, strict=True)]
            bias = [(a - b) // d + n - 1 for a, b, d, n in zip(key, token, dilation, kernel, strict=True)]
            picked.append(found[:, :, i, slot])
            score = (q[(..., *token, slice(None))] * k[(..., *key, slice(None))]).sum(-1)
            expected.append(score + rpb[(slice(None), *bias)])
    assert_same_with_gradients([torch.stack(picked)], [torch.stack(expected)], operands)
    assert int(found[0, 0].isinf().sum()) == found[0, 0].numel() - len(picked)


def test_older_names_are_the_same_functions():
    q, k, v, rpb1, rpb2, rpb3 = randoms(
        *3 * [(2, 3, 6, 6, 6, 4)], (3, 5), (3, 5, 5), (3, 3, 5, 5), dtype=torch.float32
    )
    for rank, rpb in ((1, rpb1), (2, rpb2)):
        flat = [x[(slice(None), slice(None), *[0] * (3 - rank))] for x in (q, k, v)]
        scores = SCORES[rank](*flat[:2], 3, 2, rpb=rpb)
        old = [getattr(functional, name) for name in (f"natten{rank}dqkrpb", f"na{rank}d_qk_with_bias")]
        assert all(torch.equal(scores, f(*flat[:2], rpb, 3, 2)) for f in old)
        plain = getattr(functional, f"natten{rank}dqk")(*flat[:2], 3, 2)
        assert torch.equal(plain, SCORES[rank](*flat[:2], 3, 2))
        assert torch.equal(
            getattr(functional, f"natten{rank}dav")(plain, flat[2], 3, 2), SUMS[rank](plain, flat[2], 3, 2)
        )
    scores = functional.na3d_qk(q, k, (2, 3, 3), (3, 2, 2), rpb=rpb3)
    assert torch.equal(scores, functional.natten3dqkrpb(q, k, rpb3, 2, 3, 3, 2))
    assert torch.equal(scores, functional.na3d_qk_with_bias(q, k, rpb3, 2, 3, 3, 2))
    plain = functional.natten3dqk(q, k, 2, 3, 3, 2)
    assert torch.equal(plain, functional.na3d_qk(q, k, (2, 3, 3), (3, 2, 2)))
    sums = functional.natten3dav(plain, v, 2, 3, 3, 2)
    assert torch.equal(sums, functional.na3d_av(plain, v, (2, 3, 3), (3, 2, 2)))


# refusals, knobs, installing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ours.na2d(x, x, x, 3), r"na2d takes a query \[B, 2 axes of tokens.*\(1, 8, 2, 4\)"),
        (lambda x: ours.na1d(x, x, x, 9), "9"),
        (
            lambda x: ours.na1d(x, x, x, (3, 3)),
            r"kernel_size must be a positive integer, or 1 of them, got \(3, 3\)",
        ),
        (lambda x: ours.na1d(x, x, x, 3, is_causal=1), "is_causal must be a bool, or 1 of them, got 1"),
        (lambda x: ours.na1d(x, x, x, 3, 4), "stride must lie in 1 … size = 3, got 4"),
        (lambda x: ours.na1d(x, x, x, 3, additional_keys=x), "additional_values is None"),
        (
            lambda x: ours.attention(x, x, x, seqlens_Q=torch.tensor([8])),
            "seqlens_Q and seqlens_KV come together",
        ),
        (
            lambda x: ours.attention(x, x, x, max_seqlen_Q=8),
            "max_seqlen_Q=8 .* come with cumulative_seqlen_Q",
        ),
        (
            lambda x: ours.attention(x, x, x, seqlens_Q=torch.tensor([3]), seqlens_KV=torch.tensor([8])),
            r"sequences of Q must add up to the 8 tokens, got ends at \[0, 3\]",
        ),
        (lambda x: functional.na1d_qk(x[0], x[0], 3), r"na1d_qk takes \[B, heads, one axis"),
        (
            lambda x: functional.natten1dqkrpb(x, x, torch.zeros(8, 5), 2, 1),
            r"rpb must have the shape \(8, 3\), got \(8, 5\)",
        ),
        (
            lambda x: functional.na1d_av(x, x, 2),
            r"attn must have the shape \(1, 8, 2, 2\), got \(1, 8, 2, 4\)",
        ),
        (lambda x: functional.na1d_qk(x, x, 3), r"kernel_size \* dilation must not exceed.*3 \* 1 for 2"),
        (lambda x: ours.NeighborhoodAttention1D(6, 4, 3), "num_heads 4 must divide embed_dim 6"),
        (
            lambda x: ours.NeighborhoodAttention1D(6, 2, 3)(x[0]),
            r"takes \[B, 1 axes of tokens, 6\], got shape",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(1, 8, 2, 4))


def test_knobs_are_noted_once_and_change_nothing():
    _knobs._said.clear()
    x = torch.randn(1, 8, 2, 4)
    with pytest.warns(
        UserWarning, match=r"backend='cutlass-fna', q_tile_shape=\(4,\): chooses among the kernels"
    ):
        noted = ours.na1d(x, x, x, 3, backend="cutlass-fna", q_tile_shape=(4,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(noted, ours.na1d(x, x, x, 3, backend="cutlass-fna"))
    with pytest.raises(TypeError, match=r"attention_kwargs\['is_causal'\] would change the result"):
        ours.na1d(x, x, x, 3, additional_keys=x, additional_values=x, attention_kwargs={"is_causal": True})


def run(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_install_stands_in_for_a_natten():
    """Replaced or missing: imports of every form, and the metadata that libraries ask."""
    said = run(
        """
import sys, importlib.util
import geoattn.compat.natten as ours
if importlib.util.find_spec("natten") is not None:
    import warnings
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        assert ours.install() is sys.modules["natten"]
    assert "install(replace=True)" in str(noted[0].message), noted
    assert "site-packages" in sys.modules["natten"].__file__
module = ours.install(replace=True)
assert ours.install() is module and ours.install(replace=True) is module
import natten, natten.functional
from natten import NeighborhoodAttention2D, na2d
from natten.functional import natten2dav, natten2dqkrpb
from importlib.metadata import version
assert na2d is ours.na2d and NeighborhoodAttention2D is ours.NeighborhoodAttention2D
print(natten.__version__, version("natten"), importlib.util.find_spec("natten") is not None)
"""
    ).split()
    assert said[0] == said[1]
    assert said[0].startswith("0.21")
    assert said[2] == "True"


def test_an_installed_natten_is_left_unless_told_otherwise(refused_by, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "natten"]:
        monkeypatch.delitem(sys.modules, name)
    real = ModuleType("natten")
    monkeypatch.setitem(sys.modules, "natten", real)
    monkeypatch.setitem(sys.modules, "natten.functional", ModuleType("natten.functional"))
    with refused_by("compat/natten/installing.py", "is installed and is left in its place") as said:
        assert ours.install() is real
    module = said.run("install(replace=True)", install=ours.install)
    assert sys.modules["natten"] is module
    assert sys.modules["natten.functional"] is module.functional is functional


@pytest.mark.parametrize("model", ["dinat", "nat"])
def test_models_of_transformers_run_and_train_on_a_cpu(model):
    """As published but small, through their own ``import natten``; the same as on the oracle."""
    try:
        installed = version("transformers")
    except PackageNotFoundError:
        pytest.skip("transformers is not installed (pip install transformers==4.53.3), whose models are run")
    if "of no use" in run(f"MODEL = {model!r}\n" + MODELS):
        pytest.skip(
            f"transformers {installed} has no {model}, or one that fails before it calls NATTEN: since 4.55 "
            "its heads are not moved before the tokens; 4.53.3 works"
        )


MODELS = """
import sys
import geoattn.compat.natten as ours
ours.install(replace=True)
import torch
from torch import nn
try:
    if MODEL == "dinat":
        from transformers.models.dinat import modeling_dinat as module
        from transformers import DinatConfig as Config, DinatForImageClassification as Model
    else:
        from transformers.models.deprecated.nat import modeling_nat as module
        from transformers.models.deprecated.nat.modeling_nat import NatForImageClassification as Model
        from transformers.models.deprecated.nat.configuration_nat import NatConfig as Config
except ModuleNotFoundError as missing:
    if "deprecated" not in str(missing):
        raise
    sys.exit(print("of no use"))
if not hasattr(module.NeighborhoodAttention, "transpose_for_scores"):
    sys.exit(print("of no use"))
assert module.natten2dqkrpb is ours.functional.natten2dqkrpb
torch.manual_seed(0)
sizes = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "kernel_size": 3, "num_labels": 5}
if MODEL == "dinat":
    sizes["dilations"] = [[1, 4], [2, 1]]
model = Model(Config(**sizes, drop_path_rate=0.0))
for p in model.parameters():
    nn.init.normal_(p, std=0.3)
images, labels = torch.randn(2, 3, 64, 64), torch.tensor([1, 3])

def gradients():
    model.zero_grad()
    out = model(images, labels=labels)
    out.loss.backward()
    return out.logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

logits, found = gradients()
assert all(g.isfinite().all() for g in found.values())

# the same on the oracle: scores of all keys, of which each token keeps its window's
def window_of(shape, kernel, dilation):
    def seen(i, length):
        residue, place, count = i % dilation, i // dilation, -(-(length - i % dilation) // dilation)
        low = min(max(place - kernel // 2, 0), count - kernel)
        return [t * dilation + residue for t in range(low, low + kernel)]
    rows, places = [], []
    for i in range(shape[0]):
        for j in range(shape[1]):
            pairs = [(a, b) for a in seen(i, shape[0]) for b in seen(j, shape[1])]
            rows.append([a * shape[1] + b for a, b in pairs])
            places.append([((a - i) // dilation + kernel - 1, (b - j) // dilation + kernel - 1)
                           for a, b in pairs])
    return torch.tensor(rows), torch.tensor(places)

def scores(q, k, rpb, kernel, dilation):
    rows, places = window_of(q.shape[2:4], kernel, dilation)
    every = q.flatten(2, 3) @ k.flatten(2, 3).transpose(-1, -2)
    kept = every.gather(-1, rows.expand(*every.shape[:2], -1, -1))
    return (kept + rpb[:, places[..., 0], places[..., 1]]).unflatten(2, q.shape[2:4])

def sums(attn, v, kernel, dilation):
    rows, _ = window_of(v.shape[2:4], kernel, dilation)
    every = torch.zeros(*v.shape[:2], len(rows), len(rows))
    weights = every.scatter(-1, rows.expand(*v.shape[:2], -1, -1), attn.flatten(2, 3))
    return (weights @ v.flatten(2, 3)).view(v.shape)

module.natten2dqkrpb, module.natten2dav = scores, sums
expected_logits, expected = gradients()
assert (logits - expected_logits).abs().max() < 1e-5 * expected_logits.abs().max()
largest = max(g.abs().max() for g in expected.values())
assert all((found[n] - g).abs().max() < 1e-5 * largest for n, g in expected.items())

module.natten2dqkrpb, module.natten2dav = ours.functional.natten2dqkrpb, ours.functional.natten2dav
optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
losses = []
for _ in range(8):
    optimiser.zero_grad()
    loss = model(images, labels=labels).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
"""


def test_everything_of_the_modules_is_reached_by_the_names_of_natten():
    assert set(ours.__all__) - {"install"} <= {*functional.__all__, *modules.__all__}
