"""Relations give every edge of a neighborhood its number, whichever way it is asked for."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_window_between import axes, made, seen

import geoattn as ga
from geoattn.relations import Relation

RNG = np.random.default_rng(0)
SPHERE = ga.grids.gaussian(6, 12)
LINE = ga.grids.cartesian(9)
PLANE = ga.grids.cartesian((4, 6), periodic=(False, True))
POLES = ga.grids.equiangular(7, 12)
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


def every(n, grid):
    """A mask of every so many tokens, from the second on."""
    return np.arange(grid.size).reshape(grid.shape) % n == 1


def random_labels(hood, count=5):
    return ga.relations.labels(hood, RNG.integers(count, size=hood.counts.sum()))


RELATIONS = {
    "labels": random_labels(DISC),
    "labels on a line": random_labels(ga.window(LINE, 3)),
    "labels between lines": random_labels(BETWEEN),
    "edges": ga.relations.edges(DISC),
    "edges on a plane": ga.relations.edges(ga.window(PLANE, 3)),
    "offsets": ga.relations.offsets(ga.window(PLANE, (3, 6), boundary="clip")),
    "offsets by rows": ga.relations.offsets(ga.window(PLANE, (2, 3), stride=(2, 3), offset=(0, 1)), by=0),
    "offsets by columns": ga.relations.offsets(ga.window(PLANE, 3), by=-1),
    "offsets between planes": ga.relations.offsets(
        ga.window(
            ga.grids.cartesian((3, 4), spacing=(1.0, 3.0)), 3, key_grid=ga.grids.cartesian((6, 12)), origin=1
        )
    ),
    "offsets in time and space": ga.relations.offsets(
        ga.product(ga.window(LINE, 3, causal=True), ga.window(SPHERE, (3, 5)))
    ),
    "offsets everywhere": ga.relations.offsets(ga.everything(PLANE)),
    "offsets of a wider window": ga.relations.offsets(ga.everything(PLANE)).on(
        ga.window(PLANE, 3, stride=(1, 2), boundary="clip")
    ),
    "offsets in a union": ga.relations.offsets(ga.everything(PLANE)).on(
        ga.union(ga.window(PLANE, 3), ga.window(PLANE, (1, 5)), ga.window(PLANE, (4, 1)))
    ),
    "labels of what has no axes": random_labels(ga.nearest(LINE, k=9)).on(ga.window(LINE, 3)),
    "angles": ga.relations.angles(DISC, 4),
    "angles and bearings": ga.relations.angles(ga.geodesic(POLES, radius=50.0), 3, sectors=8),
    "angles of pixels": ga.relations.angles(ga.geodesic(ga.grids.healpix(2), radius=60.0), 3, sectors=4),
    "angles between grids": ga.relations.angles(ga.geodesic(SPHERE, POLES, radius=35.0), 5, sectors=2),
    "angles in a window": ga.relations.angles(ga.window(SPHERE, 3), 3),
    "angles of hops": ga.relations.angles(ga.k_hop(ga.grids.icosahedral(1), 2), [0, 20, 40, 180], sectors=6),
    "time × sphere": ga.relations.product(
        ga.relations.offsets(ga.window(ga.grids.cartesian(3), 2, causal=True)), ga.relations.angles(DISC, 3)
    ),
    "sphere × labels × edges": ga.relations.product(
        ga.relations.angles(ga.geodesic(POLES, radius=30.0), 2, sectors=3),
        random_labels(ga.window(ga.grids.cartesian(3), 2)),
        ga.relations.edges(ga.everything(ga.grids.cartesian(2))),
    ),
}
RELATIONS |= {f"{name}, transposed": relation.transpose() for name, relation in RELATIONS.items()}
RELATIONS |= {
    f"{name}, keys hidden": relation.on(relation.hood.without_keys(every(3, relation.hood.key_grid)))
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
    fewer = hood.without_keys(every(2, hood.key_grid))
    part = relation.on(fewer)
    assert (part.hood, part.count) == (fewer, relation.count)
    numbers = table(relation)
    assert table(part) == {edge: numbers[edge] for edge in in_order(fewer)}
    assert relation.on(hood) is relation
    assert part.on(hood).hood == hood  # of what numbers all edges, not of the part
    few = part.transpose().on(fewer.transpose().without_keys(every(2, hood.query_grid)))
    assert table(few) == {(k, q): numbers[q, k] for q, k in in_order(fewer) if q % 2 == 0}


@every_relation
def test_the_parts_of_the_axes_make_up_the_number(relation):
    parts = relation.along
    axes = relation.hood.axes
    offsets = any(
        kind.kind == "relation_offsets" for kind in relation.classes_within() if issubclass(kind, Relation)
    )
    assert (parts is None) == (axes is None or (len(axes) > 1 and not offsets))
    assert parts is None or np.prod([part.count for part in parts]) == relation.count
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


def test_labels_that_follow_the_turn_of_their_neighborhood_share_it():
    for hood in (ga.geodesic(SPHERE, ga.grids.gaussian(8, 36), radius=30.0), ga.window(POLES, 3)):
        query, key = np.array(in_order(hood)).T
        width = hood.key_grid.shape[1]
        far = (key % width - query % 12 * (width // 12)) % width
        labels = ga.relations.labels(hood, far)
        assert labels.rotation == hood.rotation
        assert labels.transpose().rotation == hood.transpose().rotation
        assert ga.relations.labels(hood, key % width).rotation is None
        far[5] += 1
        assert ga.relations.labels(hood, far).rotation is None
    assert ga.relations.labels(ga.k_hop(ga.grids.icosahedral(0), 1), np.zeros(72, int)).rotation is None


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


# ---------------------------------------------------------------- offsets


def displacements(relation):
    """What each edge's number stands for."""
    return {edge: tuple(relation.coordinates[number]) for edge, number in table(relation).items()}


@given(axes())
@settings(max_examples=150, deadline=None)
def test_along_an_axis_every_displacement_has_one_number(axis):
    hood = made(axis)
    far = {(i, key): far for i in range(axis[0]) for key, far in seen(i, *axis[1:]).items()}
    there = {(key, i): -d for (i, key), d in far.items()}
    for one, expected in ((hood, far), (hood.transpose(), there)):
        if one == hood and expected is there:
            continue  # where edges are the same both ways, the transpose is the neighborhood itself
        relation = ga.relations.offsets(one)
        assert displacements(relation) == {edge: (d,) for edge, d in expected.items()}
        assert relation.coordinates[:, 0].tolist() == sorted(set(expected.values()))
        by = ga.relations.offsets(one, by=0)
        assert displacements(by) == {(i, key): (d, i) for (i, key), d in expected.items()}
        assert by.count == len(expected) == len(by.coordinates)


@given(st.lists(axes(), min_size=2, max_size=3), st.data())
@settings(max_examples=60, deadline=None)
def test_the_axes_of_a_product_are_counted_row_by_row(parameters, data):
    hood = ga.product(*(made((min(n, 4), *rest) if not rest[-1] else (n, *rest)) for n, *rest in parameters))
    by = data.draw(st.lists(st.integers(0, len(parameters) - 1), unique=True))
    one = [ga.relations.offsets(factor, by=(0,) if i in by else ()) for i, factor in enumerate(hood.factors)]
    relation = ga.relations.offsets(hood, by=[i - len(parameters) * data.draw(st.integers(0, 1)) for i in by])
    assert relation == ga.relations.offsets(hood, by=sorted(by))
    assert relation.count == len(relation.coordinates) == np.prod([part.count for part in one])
    queries, keys = (np.unravel_index(np.arange(g.size), g.shape) for g in (hood.query_grid, hood.key_grid))
    indptr, indices, numbers = relation.rows(np.arange(hood.query_grid.size))
    query = np.repeat(np.arange(hood.query_grid.size), np.diff(indptr))
    of_axis = [part.numbers(q[query], k[indices]) for part, q, k in zip(one, queries, keys, strict=True)]
    assert np.array_equal(numbers, np.ravel_multi_index(of_axis, [max(part.count, 1) for part in one]))
    columns = [part.coordinates[n, 0] for part, n in zip(one, of_axis, strict=True)]
    columns += [queries[i][query] for i in sorted(by)]
    assert np.array_equal(relation.coordinates[numbers], np.stack(columns, axis=1))


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("offset", [0, 2])
def test_windows_of_swin_have_its_relative_positions(periodic, offset):
    k, plane = 4, ga.grids.cartesian((12, 16), periodic=periodic)
    hood = ga.window(plane, k, stride=k, offset=offset, boundary="clip")
    relation = ga.relations.offsets(hood)
    assert relation.count == (2 * k - 1) ** 2
    _, indices, numbers = relation.rows(np.array([plane.shape[1] * 5 + 7]))
    # of Swin: relative rows and columns, query − key, from 0 on, row by row; its table is read from the end
    rows, columns = np.array([[5], [7]]) - np.unravel_index(indices, plane.shape) + k - 1
    index = rows * (2 * k - 1) + columns
    swin = RNG.standard_normal((3, relation.count))
    assert np.array_equal(swin[:, index], np.flip(swin, -1)[:, numbers])


def test_a_window_across_the_seam_has_the_displacements_of_any_other():
    hood = ga.window(ga.grids.cartesian(12, periodic=True), 4, stride=4, offset=2)
    relation = ga.relations.offsets(hood)
    assert relation.count == 7
    for query, place in ((10, 0), (11, 1), (0, 2), (1, 3)):
        _, indices, numbers = relation.rows(np.array([query]))
        expected = {10: 3, 11: 4, 0: 5, 1: 6}  # the number of no displacement is 3
        assert dict(zip(indices.tolist(), numbers.tolist(), strict=True)) == {
            key: number - place for key, number in expected.items()
        }


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_a_window_around_the_whole_ring_counts_from_its_own_first_key(stride):
    hood = ga.window(ga.grids.cartesian(8, periodic=True), 8, stride=stride)
    found = displacements(ga.relations.offsets(hood))
    for query in range(8):
        low = query // stride * stride + stride // 2 - 4 - query
        for far in range(low, low + 8):
            assert found[query, (query + far) % 8] == (far,)


def test_pangu_counts_levels_and_latitudes_by_their_window():
    levels, sphere = ga.grids.cartesian(4), ga.grids.equiangular(6, 24, poles=False)
    hood = ga.product(ga.window(levels, 2, stride=2), ga.window(sphere, (3, 6), stride=(3, 6)))
    relation = ga.relations.offsets(hood, by=(0, 1))
    windows = (4 // 2) * (6 // 3)
    assert relation.count == windows * 2**2 * 3**2 * (2 * 6 - 1)
    assert relation.coordinates.shape == (relation.count, 5)
    numbers = table(relation)
    assert len(set(numbers.values())) == relation.count
    assert relation.rotation == hood.rotation
    assert not relation.of_one_query
    assert ga.relations.offsets(hood, by=(0, 1, 2)).of_one_query
    assert ga.relations.offsets(hood, by=2).rotation is None


def test_everything_on_a_plane_is_a_window_over_all_of_it():
    plane = ga.grids.cartesian((3, 5), periodic=(False, True))
    hood = ga.everything(plane)
    for axis, length in zip(hood.axes, plane.shape, strict=True):
        assert axis.rows(np.arange(length)).indices.tolist() == [*range(length)] * length
    relation = ga.relations.offsets(hood)
    assert relation.count == (2 * 3 - 1) * 5
    for (query, key), (down, right) in displacements(relation).items():
        assert down == key // 5 - query // 5
        assert right == (key % 5 - query % 5 + 2) % 5 - 2
    wide = ga.window(plane, (5, 5), boundary="clip")
    assert table(relation.on(wide)) == table(ga.relations.offsets(wide))
    for other in (ga.everything(SPHERE, plane), ga.everything(ga.grids.healpix(1))):
        assert other.axes is None


# ---------------------------------------------------------------- angles


def seen_from(hood):
    """Angle and bearing of every edge in degrees, by spherical trigonometry of latitudes and longitudes."""
    query, key = np.array(in_order(hood)).T
    lat, lon = (np.radians(x.reshape(-1)[query]) for x in (hood.query_grid.lat, hood.query_grid.lon))
    to_lat, to_lon = (np.radians(x.reshape(-1)[key]) for x in (hood.key_grid.lat, hood.key_grid.lon))
    haversine = (
        np.sin((to_lat - lat) / 2) ** 2 + np.cos(lat) * np.cos(to_lat) * np.sin((to_lon - lon) / 2) ** 2
    )
    east = np.sin(to_lon - lon) * np.cos(to_lat)
    north = np.cos(lat) * np.sin(to_lat) - np.sin(lat) * np.cos(to_lat) * np.cos(to_lon - lon)
    return np.degrees(2 * np.arcsin(np.sqrt(np.minimum(haversine, 1)))), np.degrees(np.arctan2(east, north))


@pytest.mark.parametrize(
    "hood",
    [
        DISC,
        ga.geodesic(POLES, radius=50.0),
        ga.geodesic(ga.grids.healpix(2), radius=60.0),
        ga.geodesic(ga.grids.healpix(3, order="ring"), radius=45.0),
        ga.geodesic(ga.grids.healpix(4), POLES, radius=30.0),
        ga.geodesic(ga.grids.icosahedral(2), radius=40.0),
        ga.k_hop(ga.grids.icosahedral(1), 2),
        ga.nearest(ga.grids.reduced_gaussian("O4"), SPHERE, k=9),
        ga.everything(SPHERE, ga.grids.cubed_sphere(2)),
        ga.window(POLES, (3, 5)).without_keys(POLES.lat > 60),
        ga.nearest(SPHERE, k=5).transpose(),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("bins", "sectors"), [(1, 1), (5, 1), (4, 3), (3, 8), ([0, 5.0, 50, 180], 4)])
def test_an_edge_has_the_number_of_its_bin_and_its_sector(hood, bins, sectors):
    relation = ga.relations.angles(hood, bins, sectors)
    angle, bearing = seen_from(hood)
    numbers = relation.numbers_of(np.arange(hood.query_grid.size), hood.to_csr())
    assert relation.count == 1 + (len(relation.bins) - 1) * sectors == len(relation.coordinates)
    assert 0 <= numbers.min() <= numbers.max() < relation.count
    touches = angle < 1e-6
    assert np.array_equal(numbers == 0, touches)
    ring, sector = np.divmod(numbers - 1, sectors)
    lower, upper = np.array(relation.bins)[:-1], np.array(relation.bins)[1:]
    assert (touches | ((lower[ring] - 1e-6 < angle) & (angle < upper[ring] + 1e-6))).all()
    # the bearing lies within half a sector of its middle
    off = np.abs((bearing - sector * 360 / sectors + 180) % 360 - 180)
    assert (touches | (angle > 180 - 1e-6) | (off < 180 / sectors + 1e-6)).all()
    clear = (np.abs(angle[:, None] - relation.bins) > 1e-6).all(1) & (np.abs(off - 180 / sectors) > 1e-6)
    assert clear.mean() > 0.3  # and for these there was but one number


def test_bins_reach_to_the_radius_or_to_the_largest_angle():
    assert ga.relations.angles(DISC, 4).bins == (0, 10, 20, 30, 40)
    nearest = ga.nearest(SPHERE, k=4)
    assert ga.relations.angles(nearest, 2).bins[-1] == pytest.approx(seen_from(nearest)[0].max(), rel=1e-11)
    for hood in (ga.everything(SPHERE), ga.everything(ga.grids.healpix(2)), ga.window(POLES, 1)):
        assert ga.relations.angles(hood, 9).bins == tuple(range(0, 181, 20))
    window = ga.window(POLES, 3)
    assert ga.relations.angles(window, 1).bins[1] == pytest.approx(seen_from(window)[0].max())
    assert ga.relations.angles(window, [0, 90]).bins == (0.0, 90.0)


def test_an_angle_at_an_edge_of_bins_is_in_the_lower_whatever_the_rounding():
    sphere = ga.grids.equiangular(37, 72)  # every 5°
    hood = ga.geodesic(sphere, radius=30.0)
    for step, bins in ((5, 6), (10, 3), (15, 2)):
        numbers = table(ga.relations.angles(hood, bins))
        for row in range(37):
            for column in (0, 17):
                query = row * 72 + column
                for up in range(-6, 7):
                    if 0 <= row + up < 37:
                        expected = -(-abs(up) * 5 // step)
                        assert numbers[query, query + up * 72] == expected
        for east in range(-6, 7):  # along the equator
            assert numbers[18 * 72 + 40, 18 * 72 + 40 + east] == -(-abs(east) * 5 // step)


def test_a_bearing_at_an_edge_is_in_the_sector_before_it():
    sphere = ga.grids.equiangular(19, 36)
    numbers = table(ga.relations.angles(ga.geodesic(sphere, radius=30.0), 1, sectors=2))
    for column in range(36):  # due east on the equator is at the end of north, due west at the end of south
        query = 9 * 36 + column
        assert [numbers[query, 9 * 36 + (column + far) % 36] for far in (1, 3, -1, -3)] == [1, 1, 2, 2]
        assert [numbers[query, query + 36 * far] for far in (1, -1)] == [2, 1]
    four = table(ga.relations.angles(ga.geodesic(sphere, radius=30.0), 1, sectors=4))
    query = 9 * 36 + 5
    assert [four[query, query + far] for far in (-36, 1, 36, -1)] == [1, 2, 3, 4]  # clockwise from north


def test_at_a_pole_the_bearing_counts_from_the_stored_longitude():
    numbers = table(ga.relations.angles(ga.geodesic(POLES, radius=30.0), 1, sectors=12))
    for column in range(12):
        for far in range(12):
            ring = (column + far) % 12
            # over the north pole the meridian leads on southward on the other side
            assert numbers[column, 12 + ring] == 1 + (6 - far) % 12
            assert numbers[6 * 12 + column, 5 * 12 + ring] == 1 + far
            assert numbers[column, ring] == numbers[6 * 12 + column, 6 * 12 + ring] == 0  # one point


def test_the_opposite_point_lies_north():
    sphere = ga.grids.healpix(4)
    numbers = table(ga.relations.angles(ga.everything(sphere), 10, sectors=5))
    opposite = np.argmin(sphere.xyz @ sphere.xyz.T, axis=1)
    assert {numbers[query, key] for query, key in enumerate(opposite.tolist())} == {1 + 9 * 5}


def test_equal_edges_share_a_number():
    """Mirrored at the equator, at a meridian, and seen from the other end."""
    for sphere, bins in ((SPHERE, 7), (POLES, [0, 15, 30, 45]), (ga.grids.gaussian(8, 16), 16)):
        columns = sphere.shape[1]
        token = np.arange(sphere.size).reshape(sphere.shape)
        south, west = token[::-1].reshape(-1), token[:, -np.arange(columns)].reshape(-1)
        numbers = table(ga.relations.angles(ga.geodesic(sphere, radius=45.0), bins))
        for (query, key), number in numbers.items():
            assert numbers[south[query], south[key]] == number
            assert numbers[west[query], west[key]] == number
            assert numbers[key, query] == number


def test_rounding_does_not_split_what_a_turn_maps_onto_each_other():
    """Not even where an edge of bins lies in the midst of the rounded angles of equal edges."""
    hood = ga.geodesic(SPHERE, radius=60.0)
    edges = np.array(in_order(hood))
    step = (edges % 12 @ [-1, 1]) % 12
    lengths = {}
    for edge, kind, angle in zip(
        edges, zip(*(edges // 12).T, step, strict=True), seen_from(hood)[0], strict=True
    ):
        lengths.setdefault(kind, []).append((tuple(edge), angle))
    for some in [group for group in lengths.values() if group[0][1] > 1][::9]:
        middle = np.median([angle for _, angle in some]) / (1 + 1e-9)
        numbers = table(ga.relations.angles(hood, [0, middle, 180]))
        assert len(some) == 12
        assert len({numbers[edge] for edge, _ in some}) == 1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Loop(ga.neighborhoods.Neighborhood, kind="loop of points"):
    """Query i sees key i · pace + 1: a pattern that turns, where the points may not."""

    pace: int

    def rows(self, queries):
        keys = (queries * self.pace + 1) % self.key_grid.size
        return ga.neighborhoods.Rows(np.arange(len(queries) + 1), keys.astype(np.int32))

    @property
    def rotation(self):
        return ga.neighborhoods.Rotation(self.query_grid.size, 1, self.key_grid.size, self.pace)

    def transpose(self):
        raise NotImplementedError


def test_a_turn_of_the_pattern_alone_is_none_of_its_angles():
    points = ga.grids.points([10.0, -50.0, 80.0, 0.0], [0.0, 90.0, 200.0, 300.0])
    circle = ga.grids.equiangular(1, 6, poles=False)
    for grid, pace, count in ((points, 1, 4), (circle, 1, 1), (circle, 2, 4)):
        hood = Loop(grid, grid, pace)
        relation = ga.relations.angles(hood, np.arange(0, 181, 5))
        assert (relation.rotation == hood.rotation) == (count == 1)
        angle, _ = seen_from(hood)
        assert [table(relation)[edge] for edge in in_order(hood)] == np.ceil(angle / 5 - 1e-6).tolist()
        assert len(set(np.round(angle, 6))) == count


def test_coordinates_are_the_middle_of_bin_and_sector():
    assert ga.relations.angles(DISC, 2).coordinates.tolist() == [[0], [10], [30]]
    found = ga.relations.angles(DISC, [0, 20, 60], sectors=4).coordinates
    expected = [[0, 0], [10, 0], [0, 10], [-10, 0], [0, -10], [40, 0], [0, 40], [-40, 0], [0, -40]]
    np.testing.assert_allclose(found, expected, atol=1e-12)  # to north, and to east


# ---------------------------------------------------------------- products


def test_a_product_pairs_the_numbers():
    time, sphere = ga.window(ga.grids.cartesian(4), 3, causal=True), ga.geodesic(SPHERE, radius=30.0)
    before, around = ga.relations.offsets(time), ga.relations.angles(sphere, 3, sectors=2)
    relation = ga.relations.product(before, around)
    assert relation.hood == ga.product(time, sphere)
    assert relation.count == before.count * around.count
    a, b, size = table(before), table(around), SPHERE.size
    for (query, key), number in table(relation).items():
        expected = a[query // size, key // size] * around.count + b[query % size, key % size]
        assert number == expected
    np.testing.assert_array_equal(
        relation.coordinates[around.count * 2 + 4], [*before.coordinates[2], *around.coordinates[4]]
    )
    assert relation.rotation == relation.hood.rotation
    other = ga.relations.product(around, before)
    assert other.rotation == other.hood.rotation
    nested = ga.relations.product(ga.relations.product(before, around), before)
    assert nested == ga.relations.product(before, around, before)


def test_products_of_offsets_are_offsets_of_the_product():
    hoods = ga.window(LINE, 3), ga.window(PLANE, (2, 3), stride=2)
    product = ga.relations.product(*map(ga.relations.offsets, hoods))
    offsets = ga.relations.offsets(ga.product(*hoods))
    assert table(product) == table(offsets)
    np.testing.assert_array_equal(product.coordinates, offsets.coordinates)
    assert not product.of_one_query
    assert ga.relations.product(*map(ga.relations.edges, hoods)).of_one_query


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


def test_offsets_of_what_has_no_axes(refused_by):
    plane = ga.grids.cartesian((4, 6))
    near = ga.nearest(plane, k=5)
    offsets, angles, edges = ga.relations.offsets, ga.relations.angles, ga.relations.edges
    with refused_by("relations/offsets.py", "offsets are of a neighborhood along axes, and") as said:
        offsets(near)
    found = said.run("offsets(window", grid=plane, size=(3, 5), hood=near, offsets=offsets)
    assert (found.hood, found.count) == (near, (2 * 3 - 1) * (2 * 5 - 1))
    assert said.run("angles(", "4", hood=DISC, angles=angles).hood == DISC
    assert said.run("edges(", hood=near, edges=edges).hood == near


@pytest.mark.parametrize(
    ("by", "error", "words"),
    [
        (2, ValueError, r"by must name axes in \[0, 2\) of cartesian grid 4×6.*, got 2"),
        ((0, -3), ValueError, r"by must name axes .* got \(0, -3\)"),
        ((1, -1), ValueError, r"by names an axis twice: \(1, -1\)"),
        (True, TypeError, "by must hold numbers of axes, got True"),
        ((0, 1.0), TypeError, r"by must hold numbers of axes, got \(0, 1.0\)"),
        ("01", TypeError, "by must hold numbers of axes, got '01'"),
        (None, TypeError, "by must hold numbers of axes, got None"),
    ],
)
def test_axes_that_are_none_are_refused(by, error, words):
    with pytest.raises(error, match=words):
        ga.relations.offsets(ga.window(PLANE, 3), by=by)


def test_more_numbers_than_there_is_room_for_are_refused():
    hood = ga.window(ga.grids.cartesian((4000, 3000)), (20, 20))
    assert ga.relations.offsets(hood, by=0).count == 4000 * 20 * 39
    with pytest.raises(ValueError, match=r"4800000000 offsets .* numbers must lie in \[0, 2³¹\)"):
        ga.relations.offsets(hood, by=(0, 1))


def test_angles_off_the_sphere(refused_by):
    offsets, angles, edges, product = (
        getattr(ga.relations, name) for name in ("offsets", "angles", "edges", "product")
    )
    made = {"offsets": offsets, "angles": angles, "edges": edges, "product": product}
    window, both = ga.window(PLANE, 3), ga.product(ga.window(LINE, 3), DISC)
    for hood in (window, both):
        with refused_by("relations/angles.py", "angles are of edges on a sphere, and") as said:
            angles(hood, 3)
        assert said.run("offsets(hood)", hood=window, **made).hood == window
        found = said.run("product(", "3", window=ga.window(LINE, 3), disc=DISC, **made)
        assert found.hood == both
        assert said.run("edges(hood)", hood=hood, **made).hood == hood


def test_bins_that_end_before_the_largest_angle(refused_by):
    hood = ga.nearest(SPHERE, k=5)
    for bins in ([0, 10], (0, 5, 20.0)):
        with refused_by("relations/angles.py", "lies within the largest angle of an edge") as said:
            ga.relations.angles(hood, bins)
        assert ga.relations.angles(hood, said.run("bins=", bins=bins)).count == 1 + len(bins)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0,), ValueError, "bins must be at least 1, got 0"),
        ((True,), TypeError, "bins must be an integer, got True"),
        ((3.0,), TypeError, "bins must be a number of bins, or their edges in degrees, got 3.0"),
        (("3",), TypeError, "bins must be a number of bins, or their edges in degrees, got '3'"),
        (([[0, 50]],), TypeError, r"bins must be a number of bins, or their edges in degrees, got \[\["),
        (([10, 50],), ValueError, r"edges of bins must ascend from 0, got \[10, 50\]"),
        (([0],), ValueError, "edges of bins must ascend from 0"),
        (([0, 50, 50],), ValueError, "edges of bins must ascend from 0"),
        (([0, np.nan, 50],), ValueError, "edges of bins must ascend from 0"),
        (([0, np.inf],), ValueError, "edges of bins must ascend from 0"),
        ((3, 0), ValueError, "sectors must be at least 1, got 0"),
        ((3, 1.0), TypeError, "sectors must be an integer, got 1.0"),
    ],
)
def test_bins_and_sectors_that_are_none_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        ga.relations.angles(DISC, *arguments)


def test_products_of_what_is_no_relation(refused_by):
    with refused_by("relations/product.py", "a product is of relations, got") as said:
        ga.relations.product(ga.relations.edges(DISC), DISC)
    make = {name: getattr(ga.relations, name) for name in ("offsets", "angles", "labels", "edges")}
    window = ga.window(PLANE, 3)
    values = np.zeros(window.counts.sum(), np.int64)
    found = [
        said.run("offsets(", hood=window, **make),
        said.run("angles(", "3", hood=DISC, **make),
        said.run("labels(", hood=window, values=values, **make),
        said.run("edges(", hood=window, **make),
    ]
    assert ga.relations.product(*found).count == np.prod([relation.count for relation in found])
    with pytest.raises(ValueError, match="a product needs at least two relations, got"):
        ga.relations.product(found[0])
    many = ga.relations.edges(ga.everything(ga.grids.cartesian(300)))
    with pytest.raises(ValueError, match=r"numbers must lie in \[0, 2³¹\)"):
        ga.relations.product(many, many)
