"""Relations give every edge of a neighborhood its number, whichever way it is asked for."""

import json
import pickle

import numpy as np
import pytest

import geoattn as ga
from geoattn.relations import Relation

RNG = np.random.default_rng(0)
SPHERE = ga.grids.gaussian(6, 12)
LINE = ga.grids.cartesian(9)
PLANE = ga.grids.cartesian((4, 6), periodic=(False, True))
DISC = ga.geodesic(SPHERE, radius=40.0)
BETWEEN = ga.window(ga.grids.cartesian(4, spacing=2.0), 3, boundary="clip", key_grid=LINE, origin=1)


def table(relation):
    """The number of every edge, by a query and a key, asked for in pieces of a few shuffled queries."""
    found = {}
    for queries in np.array_split(RNG.permutation(relation.hood.query_grid.size), 5):
        indptr, indices, numbers = relation.rows(queries)
        rows = relation.hood.rows(queries)
        assert np.array_equal(indptr, rows.indptr)
        assert np.array_equal(indices, rows.indices)
        assert numbers.dtype == np.int32
        assert numbers.shape == indices.shape
        edges = zip(np.repeat(queries, np.diff(indptr)).tolist(), indices.tolist(), strict=True)
        found |= dict(zip(edges, numbers.tolist(), strict=True))
    assert len(found) == relation.hood.counts.sum()
    assert all(0 <= number < relation.count for number in found.values())
    return found


def in_order(hood):
    """All edges, as pairs of a query and a key, in the order of ``to_csr``."""
    indptr, indices = hood.to_csr()
    return list(
        zip(np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)).tolist(), indices.tolist(), strict=True)
    )


def random_labels(hood, count=5):
    return ga.relations.labels(hood, RNG.integers(count, size=hood.counts.sum()))


RELATIONS = {
    "labels": random_labels(DISC),
    "labels on a line": random_labels(ga.window(LINE, 3)),
    "labels between lines": random_labels(BETWEEN),
    "edges": ga.relations.edges(DISC),
    "edges on a plane": ga.relations.edges(ga.window(PLANE, 3)),
}
RELATIONS |= {f"{name}, transposed": relation.transpose() for name, relation in RELATIONS.items()}
RELATIONS |= {
    f"{name}, keys hidden": relation.on(
        relation.hood.without_keys(RNG.random(relation.hood.key_grid.shape) < 0.3)
    )
    for name, relation in RELATIONS.items()
}


# ---------------------------------------------------------------- what every relation promises

every_relation = pytest.mark.parametrize("relation", RELATIONS.values(), ids=RELATIONS)


@every_relation
def test_a_relation_is_a_value(relation):
    again = pickle.loads(pickle.dumps(relation))
    assert again == relation
    assert hash(again) == hash(relation)
    read = Relation.from_dict(json.loads(json.dumps(relation.to_dict())))
    assert (read, read.digest, repr(read)) == (relation, relation.digest, repr(relation))
    assert table(read) == table(relation)
    assert Relation.alive(relation.identity) == relation
    with pytest.raises(ValueError, match="is no neighborhood"):
        ga.neighborhoods.Neighborhood.from_dict(relation.to_dict())


def test_relations_of_other_content_are_others():
    assert len({relation.digest for relation in RELATIONS.values()}) == len(RELATIONS)


@every_relation
def test_the_transpose_numbers_the_same_edges_from_the_keys(relation):
    there = relation.transpose()
    assert there.hood == relation.hood.transpose()
    assert there.count == relation.count
    assert table(there) == {(key, query): number for (query, key), number in table(relation).items()}
    assert there.transpose() == relation


@every_relation
def test_a_relation_holds_on_some_of_its_edges(relation):
    hood = relation.hood
    fewer = hood.without_keys(RNG.random(hood.key_grid.shape) < 0.5)
    part = relation.on(fewer)
    assert (part.hood, part.count) == (fewer, relation.count)
    numbers = table(relation)
    assert table(part) == {edge: numbers[edge] for edge in in_order(fewer)}
    assert relation.on(hood) is relation
    assert part.on(hood).hood == hood  # of what numbers all edges, not of the part
    few = part.transpose().on(fewer.transpose().without_keys(np.arange(hood.query_grid.size).reshape(
        hood.query_grid.shape) % 2 == 0))  # fmt: skip
    assert table(few) == {(k, q): numbers[q, k] for q, k in in_order(fewer) if q % 2}


@every_relation
def test_the_parts_of_the_axes_make_up_the_number(relation):
    parts = relation.along
    assert (parts is None) == (relation.hood.axes is None or len(relation.hood.axes) > 1)
    for query, key in in_order(relation.hood) if parts else ():
        places = (
            np.unravel_index([token], grid.shape)
            for token, grid in ((query, relation.hood.query_grid), (key, relation.hood.key_grid))
        )
        number = 0
        for part, at, to in zip(parts, *places, strict=True):
            number = number * part.count + int(part.numbers(at, to)[0])
        assert number == relation.numbers(np.array([query]), np.array([key]))[0]


@every_relation
def test_edges_that_a_turn_maps_onto_each_other_share_a_number(relation):
    turn = relation.rotation
    if turn is None:
        return
    numbers = table(relation)
    for (query, key), number in numbers.items():
        query = query - query % turn.query_ring + (query + turn.query_step) % turn.query_ring
        key = key - key % turn.key_ring + (key + turn.key_step) % turn.key_ring
        assert numbers[query, key] == number


# ---------------------------------------------------------------- labels and edges


def test_labels_come_in_the_order_of_the_edges():
    values = RNG.integers(7, size=DISC.counts.sum())
    relation = ga.relations.labels(DISC, values)
    assert table(relation) == dict(zip(in_order(DISC), values.tolist(), strict=True))
    assert relation.count == values.max() + 1
    assert ga.relations.labels(DISC, values.astype(float)) == relation
    nothing = DISC.without_keys(np.ones(SPHERE.shape, bool))
    assert ga.relations.labels(nothing, np.zeros(0, np.int64)).count == 0


def test_labels_cannot_be_written_to_nor_follow_their_source():
    values = np.zeros(DISC.counts.sum(), np.int32)
    relation = ga.relations.labels(DISC, values)
    values[:] = 1
    assert set(table(relation).values()) == {0}
    with pytest.raises(ValueError, match="read-only"):
        relation.values[0] = 1


def test_every_edge_has_a_number_of_its_own():
    relation = ga.relations.edges(DISC)
    assert table(relation) == {edge: i for i, edge in enumerate(in_order(DISC))}
    assert relation.of_one_query
    assert relation.on(DISC.without_keys(SPHERE.lat > 0)).of_one_query
    assert not relation.transpose().of_one_query
    assert not ga.relations.labels(DISC, np.zeros(relation.count, np.int64)).of_one_query


# ---------------------------------------------------------------- what is refused


def test_what_is_no_neighborhood_has_no_relation(refused_by):
    for make in (lambda hood: ga.relations.labels(hood, [0]), ga.relations.edges):
        with refused_by("relations/base.py", "a relation numbers the edges of a neighborhood") as said:
            make(PLANE)
        said.says("window(grid, size)", "geodesic(grid, radius=…)")
        for hood in (ga.window(PLANE, 3), ga.geodesic(SPHERE, radius=30.0)):
            assert ga.relations.edges(hood).count == hood.counts.sum()


def test_a_relation_is_of_one_neighborhood_for_all_heads(refused_by):
    hood = ga.heads(DISC, ga.everything(SPHERE))
    with refused_by("relations/base.py", "has other edges for other heads; make a relation of one") as said:
        ga.relations.edges(hood)
    assert ga.relations.edges(said.run("hood.parts[0]", hood=hood)).hood == DISC


def test_the_same_numbers_on_other_edges_are_refused():
    relation = ga.relations.edges(DISC)
    with pytest.raises(ValueError, match=r"numbers no edge from query 0 to key \d+, which everything on"):
        relation.on(ga.everything(SPHERE))
    wider = ga.geodesic(SPHERE, radius=80.0)
    with pytest.raises(ValueError, match="make the relation of a neighborhood that holds all of its edges"):
        relation.on(wider)
    assert ga.relations.edges(wider).on(DISC).hood == DISC
    with pytest.raises(ValueError, match="numbers edges between other grids than those of window 3×3"):
        relation.on(ga.window(PLANE, 3))
    with pytest.raises(TypeError, match="a relation numbers the edges of a neighborhood, got Gaussian"):
        relation.on(SPHERE)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda v: v[None], ValueError, r"one number for each of the 12 edges .* got shape \(1, 12\)"),
        (lambda v: v - 1, ValueError, r"values must lie in \[0, 2³¹\), got -1 … 10"),
        (lambda v: v + 2**31, ValueError, r"values must lie in \[0, 2³¹\), got 2147483648 …"),
        (lambda v: v + 0.5, TypeError, "values must hold whole numbers, got 0.5"),
        (lambda v: v > 3, TypeError, "values must hold whole numbers, got bool"),
    ],
)
def test_labels_that_are_none_are_refused(change, error, words):
    hood = ga.everything(ga.grids.cartesian(3), ga.grids.cartesian(4))
    with pytest.raises(error, match=words):
        ga.relations.labels(hood, change(np.arange(12)))


def test_labels_of_too_few_edges_are_refused(refused_by):
    with refused_by("relations/labels.py", "values must hold one number for each of the") as said:
        ga.relations.labels(DISC, [1, 2])
    keys = said.run("hood.to_csr().indices", hood=DISC)
    relation = ga.relations.labels(DISC, keys % 3)
    assert all(number == key % 3 for (_, key), number in table(relation).items())


def test_numbers_without_coordinates():
    for relation in (ga.relations.edges(DISC), ga.relations.edges(DISC).transpose()):
        with pytest.raises(TypeError, match="have no coordinates; give each a bias of its own"):
            relation.coordinates  # noqa: B018
