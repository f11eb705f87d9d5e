"""What the gallery shows: patterns, grids, relations and published models, as code, picture and cost.

The code of an entry makes a ``grid`` and a ``hood`` on it, or a ``hood``, or a ``relation``; what is drawn is
what ``query`` sees. ``tests/test_site.py`` holds that no public name and no kind is left out.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any, NamedTuple


class Shown(NamedTuple):
    """An entry of the gallery."""

    title: str
    #: a sentence or two on when one wants it
    words: str
    code: str
    query: Any


class Made(NamedTuple):
    """An entry once its code has run."""

    #: what the code left behind, by name
    values: dict[str, Any]
    #: a PNG
    picture: bytes
    #: what is printed below it
    cost: str


NEIGHBORHOODS: dict[str, Shown] = {
    "disc": Shown(
        "A disc: geodesic",
        "The same reach everywhere on a sphere, near the poles too, where more points lie within it.",
        "grid = ga.grids.gaussian(32, 64)\nhood = ga.geodesic(grid, radius=20)",
        (3, 20),
    ),
    "nearest": Shown(
        "The nearest points of another grid: nearest",
        "The same number of keys for each query, from any grid to any other.",
        "fine, coarse = ga.grids.equiangular(46, 90), ga.grids.icosahedral(3)\n"
        "hood = ga.nearest(fine, coarse, k=9)",
        (20, 30),
    ),
    "transpose": Shown(
        "The other way: transpose",
        "Which queries see a key. Those of a fine grid that has the key among their nearest.",
        "fine, coarse = ga.grids.equiangular(46, 90), ga.grids.icosahedral(3)\n"
        "hood = ga.nearest(fine, coarse, k=3).transpose()",
        100,
    ),
    "everything": Shown(
        "Everything",
        "All keys, weighted by area: global attention on a sphere.",
        "grid = ga.grids.healpix(8)\nhood = ga.everything(grid)",
        300,
    ),
    "window": Shown(
        "A window on a plane, dilated along one axis",
        "At the border it moves inward, so that every query has as many keys.",
        "plane = ga.grids.cartesian((24, 32))\nhood = ga.window(plane, (7, 5), dilation=(2, 1))",
        (5, 16),
    ),
    "periodic": Shown(
        "A window around a periodic axis",
        "Lat-lon grids are periodic in longitude by themselves.",
        "plane = ga.grids.cartesian((24, 32), periodic=(False, True))\nhood = ga.window(plane, 7)",
        (12, 1),
    ),
    "causal": Shown(
        "A causal window along a line",
        "Each query sees itself and what came before it.",
        "line = ga.grids.cartesian(32)\nhood = ga.window(line, 8, causal=True)",
        20,
    ),
    "between": Shown(
        "A window from one plane to another",
        "Queries on every second point of a plane whose keys have a margin of two.",
        "queries = ga.grids.cartesian((12, 16), spacing=2)\n"
        "keys = ga.grids.cartesian((28, 36))\n"
        'hood = ga.window(queries, 5, key_grid=keys, origin=2, boundary="clip")',
        (0, 5),
    ),
    "curve": Shown(
        "A piece of a curve: curve_window",
        "Windows on the rank along a space-filling curve, here Hilbert's.",
        "plane = ga.grids.cartesian((32, 32))\nhood = ga.curve_window(plane, 64)",
        (13, 18),
    ),
    "hops": Shown(
        "Hops along the edges of a mesh: k_hop",
        "What three steps reach.",
        "mesh = ga.grids.icosahedral(3)\nhood = ga.k_hop(mesh, 3)",
        100,
    ),
    "edges": Shown(
        "Any edges: from_edges",
        "A pattern that has no name, by its rows; here the moves of a knight.",
        "plane = ga.grids.cartesian((12, 16))\n"
        "row, column = np.divmod(np.arange(plane.size), 16)\n"
        "moves = abs(row[:, None] - row) * abs(column[:, None] - column) == 2\n"
        "indptr, indices = np.append(0, moves.sum(1).cumsum()), np.nonzero(moves)[1]\n"
        "hood = ga.from_edges(plane, plane, indptr, indices)",
        (5, 7),
    ),
    "union": Shown(
        "The keys of several patterns: union",
        "Each key once, in one softmax.",
        "plane = ga.grids.cartesian((24, 32))\n"
        "hood = ga.union(ga.window(plane, 5), ga.window(plane, (24, 1)), ga.window(plane, (1, 32)))",
        (8, 20),
    ),
    "heads": Shown(
        "Other patterns for other heads: heads",
        "Half of the heads along parallels, half within a disc.",
        "grid = ga.grids.equiangular(24, 48, poles=False)\n"
        "hood = ga.heads(ga.window(grid, (1, 48)), ga.geodesic(grid, radius=25))",
        (6, 12),
    ),
    "product": Shown(
        "One pattern for each axis: product",
        "The last three times, and in each of them a disc.",
        "time, sphere = ga.grids.cartesian(6), ga.grids.healpix(8)\n"
        "hood = ga.product(ga.window(time, 3, causal=True), ga.geodesic(sphere, radius=20))",
        (4, 300),
    ),
    "hidden": Shown(
        "Without some keys: without_keys",
        "What is hidden for good, such as land, is left out of the plan; `key_mask` hides in one call.",
        "grid = ga.grids.gaussian(32, 64)\n"
        "land = np.cos(np.radians(3 * grid.lon)) * np.cos(np.radians(grid.lat)) > 0.4\n"
        "hood = ga.geodesic(grid, radius=25).without_keys(land)",
        (14, 14),
    ),
}

GRIDS: dict[str, Shown] = {
    "cartesian": Shown(
        "cartesian",
        "Lines, planes and volumes of equal cells, periodic or not.",
        "grid = ga.grids.cartesian((16, 24), spacing=(1.0, 0.5), periodic=(False, True))\n"
        "hood = ga.window(grid, 5)",
        (8, 0),
    ),
    "equiangular": Shown(
        "equiangular, with poles",
        "Equal steps of latitude, both poles among them, as ERA5 has it; weights of Clenshaw and Curtis.",
        "grid = ga.grids.equiangular(19, 36)\nhood = ga.geodesic(grid, radius=25)",
        (4, 10),
    ),
    "panorama": Shown(
        "equiangular, without poles",
        "Cell centres, as panoramas of 360° × 180° have them; weights of Fejér's first rule.",
        "grid = ga.grids.equiangular(18, 36, poles=False)\nhood = ga.geodesic(grid, radius=25)",
        (4, 10),
    ),
    "gaussian": Shown(
        "gaussian",
        "Gauss–Legendre latitudes of spectral models: exact to twice the degree.",
        "grid = ga.grids.gaussian(18, 36)\nhood = ga.geodesic(grid, radius=25)",
        (4, 10),
    ),
    "lobatto": Shown(
        "lobatto",
        "Gauss–Lobatto latitudes, with both poles.",
        "grid = ga.grids.lobatto(18, 36)\nhood = ga.geodesic(grid, radius=25)",
        (0, 10),
    ),
    "latlon": Shown(
        "latlon",
        "Rows of a file that follow no rule; each weighs the zone around it.",
        "grid = ga.grids.latlon(90 - 180 * np.linspace(0, 1, 17) ** 1.4, np.arange(36) * 10.0)\n"
        "hood = ga.geodesic(grid, radius=25)",
        (8, 10),
    ),
    "patches": Shown(
        "patches: the cells of a patch embedding",
        "Rectangles of points as one point each, whose weights are the sums.",
        "fine = ga.grids.equiangular(36, 72, poles=False)\n"
        "grid, members = ga.grids.patches(fine, (3, 4))\n"
        "hood = ga.geodesic(grid, radius=35)",
        (3, 5),
    ),
    "reduced": Shown(
        "reduced_gaussian, octahedral",
        "ECMWF's O grids: fewer points on rows near the poles.",
        'grid = ga.grids.reduced_gaussian("O12")\nhood = ga.geodesic(grid, radius=25)',
        120,
    ),
    "classic": Shown(
        "reduced_gaussian, classic",
        "N grids, from the tables that ship.",
        'grid = ga.grids.reduced_gaussian("N32")\nhood = ga.geodesic(grid, radius=12)',
        900,
    ),
    "healpix": Shown(
        "healpix",
        "Pixels of equal area in nested or ring order.",
        "grid = ga.grids.healpix(8)\nhood = ga.geodesic(grid, radius=25)",
        100,
    ),
    "icosahedral": Shown(
        "icosahedral",
        "Triangles cut in four, again and again; it has edges to hop along.",
        "grid = ga.grids.icosahedral(3)\nhood = ga.geodesic(grid, radius=25)",
        100,
    ),
    "cubed": Shown(
        "cubed_sphere, equiangular",
        "Six faces, equal in angle along their middle lines.",
        "grid = ga.grids.cubed_sphere(10)\nhood = ga.geodesic(grid, radius=25)",
        (0, 1, 1),
    ),
    "fv3": Shown(
        "cubed_sphere, equal-edge",
        "FV3's cube, turned and numbered as its files are.",
        'grid = ga.grids.cubed_sphere(10, "equal-edge")\nhood = ga.geodesic(grid, radius=25)',
        (0, 1, 1),
    ),
    "points": Shown(
        "points",
        "Any points, such as stations, weighted by their Voronoi cells or by areas that you give.",
        "golden = np.arange(400) * 180 * (3 - 5**0.5)\n"
        "lat = np.degrees(np.arcsin(1 - (np.arange(400) + 0.5) / 200))\n"
        "grid = ga.grids.points(lat + 2 * np.cos(golden), golden)\n"
        "hood = ga.nearest(grid, k=20)",
        90,
    ),
    "mesh": Shown(
        "mesh",
        "A model's own cells and what joins them, such as ICON's triangles; `from_xarray` reads such files.",
        "nodes = ga.grids.icosahedral(3)\n"
        "corners = nodes.xyz[nodes.triangles]\n"
        "middle = corners.mean(1)\n"
        "lat, lon = np.degrees([np.arctan2(middle[:, 2], np.hypot(*middle.T[:2])), "
        "np.arctan2(middle[:, 1], middle[:, 0])])\n"
        "cells = nodes.lat[nodes.triangles], nodes.lon[nodes.triangles]\n"
        "grid = ga.grids.mesh(lat, lon, corners=cells)\n"
        "hood = ga.k_hop(grid, 4)",
        300,
    ),
    "regional": Shown(
        "regional, between parallels and meridians",
        "A part of the globe, weighted by its own cells; here Europe.",
        "grid = ga.grids.regional(np.arange(36.0, 72.0, 2.0), np.arange(-12.0, 42.0, 2.0))\n"
        "hood = ga.geodesic(grid, radius=8)",
        (12, 6),
    ),
    "curvilinear": Shown(
        "regional, curvilinear",
        "Coordinates with two dimensions: rotated poles, projections, swaths, oceans.",
        "x, y = np.meshgrid(np.arange(-20.0, 20.1, 2.0), np.arange(-14.0, 14.1, 2.0))\n"
        "turned = np.radians(25)\n"
        "east, north = x * np.cos(turned) + y * np.sin(turned), y * np.cos(turned) - x * np.sin(turned)\n"
        "grid = ga.grids.regional(50 + north, 10 + 1.5 * east)\n"
        "hood = ga.geodesic(grid, radius=8)",
        (7, 10),
    ),
    "nested": Shown(
        "union: a fine region in a coarse globe",
        "Cells of the second take the place of the first's; either part sees the other.",
        "region = ga.grids.regional(np.arange(31.0, 60.0, 2.0), np.arange(-19.0, 40.0, 2.0))\n"
        'grid = ga.grids.union(ga.grids.gaussian(18, 36), region, overlap="replace")\n'
        "hood = ga.geodesic(grid, radius=18)",
        700,
    ),
    "levels": Shown(
        "product",
        "Levels × sphere, time × plane: one grid with the axes of both.",
        "levels, sphere = ga.grids.cartesian(3), ga.grids.healpix(8)\n"
        "grid = ga.grids.product(levels, sphere)\n"
        "hood = ga.product(ga.everything(levels), ga.geodesic(sphere, radius=15))",
        (1, 300),
    ),
    "named": Shown(
        "named: the catalogue",
        "Grids that people's data come on, by name; `ga.grids.catalogue()` lists them.",
        'grid = ga.grids.named("ncep-reanalysis-2.5")\nhood = ga.geodesic(grid, radius=12)',
        (16, 10),
    ),
    "from_xarray": Shown(
        "from_xarray: that of a file",
        "Recognised by its coordinates; `ga.grids.recognise` says by which.",
        "import xarray as xr\n\n"
        'coords = {"latitude": np.arange(85.0, -86.0, -10.0), "longitude": np.arange(5.0, 360.0, 10.0)}\n'
        "grid = ga.grids.from_xarray(xr.Dataset(coords=coords))\n"
        "hood = ga.geodesic(grid, radius=30)",
        (4, 10),
    ),
}

RELATIONS: dict[str, Shown] = {
    "offsets": Shown(
        "Displacements: offsets",
        "Relative positions as Swin's, one number for each.",
        "plane = ga.grids.cartesian((12, 16))\nrelation = ga.relations.offsets(ga.window(plane, 5))",
        (5, 8),
    ),
    "offsets-by": Shown(
        "Displacements, apart by row: offsets(…, by=0)",
        "Where a displacement means something else at each latitude, as in Pangu-Weather.",
        "grid = ga.grids.equiangular(19, 36)\nrelation = ga.relations.offsets(ga.window(grid, 5), by=0)",
        (9, 8),
    ),
    "angles": Shown(
        "Distance and bearing: angles",
        "Bins of the great-circle distance, sectors of the direction in which a query sees the key.",
        "disc = ga.geodesic(ga.grids.icosahedral(4), radius=20)\n"
        "relation = ga.relations.angles(disc, bins=3, sectors=6)",
        1000,
    ),
    "labels": Shown(
        "Any integers: labels",
        "A number for each edge, in the order of `hood.to_csr().indices`: here whether query and key are sea "
        "or land.",
        "grid = ga.grids.gaussian(32, 64)\n"
        "land = (np.cos(np.radians(3 * grid.lon)) * np.cos(np.radians(grid.lat)) > 0.4).reshape(-1)\n"
        "disc = ga.geodesic(grid, radius=25)\n"
        "indptr, key = disc.to_csr()\n"
        "query = np.repeat(np.arange(grid.size), np.diff(indptr))\n"
        "relation = ga.relations.labels(disc, 2 * land[query] + land[key])",
        (14, 14),
    ),
    "edges-numbered": Shown(
        "Each edge its own: edges",
        "Biases that are computed for every edge, such as those sampled from a table of angles.",
        "disc = ga.geodesic(ga.grids.icosahedral(3), radius=20)\nrelation = ga.relations.edges(disc)",
        100,
    ),
    "product-of-relations": Shown(
        "Pairs of numbers: product",
        "As neighborhoods are multiplied; each time has numbers of its own here.",
        "time, sphere = ga.grids.cartesian(6), ga.grids.healpix(8)\n"
        "before = ga.relations.offsets(ga.window(time, 3, causal=True))\n"
        "near = ga.relations.angles(ga.geodesic(sphere, radius=20), bins=4)\n"
        "relation = ga.relations.product(before, near)",
        (4, 300),
    ),
    "on": Shown(
        "On another neighborhood: on",
        "One numbering, and one table, for several patterns that have some of its edges.",
        "plane = ga.grids.cartesian((24, 32))\n"
        'around = ga.relations.offsets(ga.window(plane, 15, boundary="clip"))\n'
        'relation = around.on(ga.window(plane, 8, stride=8, offset=4, boundary="clip"))',
        (13, 13),
    ),
    "transposed": Shown(
        "As keys see it: transpose",
        "The numbers that a key has for the queries that see it.",
        "fine, coarse = ga.grids.healpix(8), ga.grids.icosahedral(2)\n"
        "relation = ga.relations.angles(ga.nearest(fine, coarse, k=4), bins=6).transpose()",
        60,
    ),
}

MODELS: dict[str, Shown] = {
    "swin": Shown(
        "Swin",
        "Windows that do not overlap, shifted in every second layer, with relative positions "
        "([whole Swin-T](../tests/real_models/test_swin.py)).",
        "plane = ga.grids.cartesian((24, 32))\n"
        'shifted = ga.window(plane, 8, stride=8, offset=4, boundary="clip")\n'
        "relation = ga.relations.offsets(shifted)  # as key − query; Swin counts the other way",
        (13, 13),
    ),
    "swinv2": Shown(
        "SwinV2",
        "As Swin; its table is a small network of the displacements, its scale a tensor "
        "([whole SwinV2-T](../tests/real_models/test_swinv2.py)).",
        "plane = ga.grids.cartesian((16, 32))\n"
        "relation = ga.relations.offsets(ga.window(plane, 8, stride=8))\n"
        "steps = torch.tensor(-relation.coordinates).float()  # what the network takes",
        (4, 18),
    ),
    "maxvit": Shown(
        "MaxViT",
        "Its grid attention: points that lie evenly over the plane "
        "([whole](../tests/real_models/test_maxvit.py)). Its blocks are Swin's without a shift.",
        "plane = ga.grids.cartesian((24, 32))\n"
        "relation = ga.relations.offsets(ga.window(plane, (6, 8), dilation=(24 // 6, 32 // 8)))",
        (13, 13),
    ),
    "gcvit": Shown(
        "GCViT",
        "Windows whose queries are one window's in every second layer "
        "([whole](../tests/real_models/test_gcvit.py)).",
        "plane = ga.grids.cartesian((14, 28))\n"
        "relation = ga.relations.offsets(ga.window(plane, 7, stride=7))",
        (3, 10),
    ),
    "halonet": Shown(
        "HaloNet",
        "Blocks of queries that see a halo around them, whose zeros beyond the plane count "
        "([layers](../tests/real_models/test_halonet.py)).",
        "block, halo = 4, 3\n"
        "queries = ga.grids.cartesian((16, 24))\n"
        "padded = ga.grids.cartesian((16 + 2 * halo, 24 + 2 * halo))\n"
        "hood = ga.window(\n"
        '    queries, block + 2 * halo, stride=block, boundary="clip", key_grid=padded, origin=halo\n'
        ")\n"
        "relation = ga.relations.offsets(hood)",
        (1, 9),
    ),
    "botnet": Shown(
        "BoTNet",
        "Everything, with relative positions whose table each query brings "
        "([layers](../tests/real_models/test_botnet.py)).",
        "plane = ga.grids.cartesian((12, 16))\nrelation = ga.relations.offsets(ga.everything(plane))",
        (3, 5),
    ),
    "dinat": Shown(
        "NAT and DiNAT",
        "Sliding windows, dilated in every second layer ([whole](../tests/real_models/test_dinat.py), and "
        "[NATTEN's names](compat.md#natten)).",
        "plane = ga.grids.cartesian((24, 32))\n"
        "relation = ga.relations.offsets(ga.window(plane, 7, dilation=3))",
        (10, 16),
    ),
    "pangu": Shown(
        "Pangu-Weather",
        "Windows of levels × latitudes × longitudes, shifted, with a bias for each level and latitude "
        "([layers](../tests/real_models/test_pangu.py)).",
        "levels, sphere = ga.grids.cartesian(4), ga.grids.equiangular(24, 48, poles=False)\n"
        'up = ga.window(levels, 2, stride=2, offset=1, boundary="clip")\n'
        'around = ga.window(sphere, (6, 12), stride=(6, 12), offset=(3, 6), boundary="clip")\n'
        "relation = ga.relations.offsets(ga.product(up, around), by=(0, 1))",
        (1, 5, 20),
    ),
    "aurora": Shown(
        "Aurora",
        "The same where windows do not divide the grid: along each axis what shift and padding leave "
        "([layers](../tests/real_models/test_aurora.py)).",
        "def segments(n, size, shift, around):\n"
        '    """Along an axis that was rolled, the windows without what the roll brought together."""\n'
        "    at = np.arange(n)\n"
        "    part = np.where(at < n - size, 0, np.where((at < n - shift) & (not around), 1, 2))\n"
        "    window = (at + -n % size // 2) // size\n"
        "    same = (window[:, None] == window) & (part[:, None] == part)\n"
        "    line = ga.grids.cartesian(n)\n"
        "    return ga.from_edges(line, line, np.append(0, same.sum(1).cumsum()), np.nonzero(same)[1])\n"
        "\n\n"
        "sizes = (4, 15, 30), (2, 6, 12), (1, 3, 6)  # of the grid, of windows, of shifts\n"
        "hood = ga.product(*map(segments, *sizes, (False, False, True)))",
        (1, 6, 20),
    ),
    "heal_swin": Shown(
        "HEAL-SWIN",
        "Windows along the nested order of HEALPix, shifted, with places in the window as relation "
        "([layers](../tests/real_models/test_heal_swin.py)).",
        "pixels, shift = ga.grids.healpix(8), 8\n"
        'hood = ga.curve_window(pixels, 16, stride=16, curve="nested", offset=shift, boundary="clip")\n'
        "indptr, key = hood.to_csr()\n"
        "query = np.repeat(np.arange(pixels.size), np.diff(indptr))\n"
        "\n\n"
        "def places(pixel):\n"
        '    """Row and column in a window of 4×4: every other bit of the nested number."""\n'
        "    return pixel >> 1 & 1 | pixel >> 2 & 2, pixel & 1 | pixel >> 1 & 2\n"
        "\n\n"
        "query, key = (places((pixel - shift) % 16) for pixel in (query, key))\n"
        "down, right = (a - b + 3 for a, b in zip(query, key))\n"
        "relation = ga.relations.labels(hood, down * 7 + right)",
        300,
    ),
    "gencast": Shown(
        "GenCast",
        "What a few edges of an icosahedral mesh reach ([layers](../tests/real_models/test_gencast.py)); the "
        "softmax has no weights.",
        "mesh = ga.grids.icosahedral(4)\nhood = ga.k_hop(mesh, 8)  # and key_weights=None in ga.attention",
        1000,
    ),
    "sphere_uformer": Shown(
        "SphereUFormer",
        "Nodes of an icosahedral mesh and those that some edges reach, with a bias for every edge, sampled "
        "from a table of angles ([layers](../tests/real_models/test_sphere_uformer.py)).",
        "mesh = ga.grids.icosahedral(3)\nrelation = ga.relations.edges(ga.k_hop(mesh, 2))",
        100,
    ),
    "egformer": Shown(
        "EGformer's stripes",
        "Along parallels and along meridians, for halves of the heads "
        "([layers](../tests/real_models/test_egformer.py)); its weights are no softmax.",
        "plane = ga.grids.cartesian((16, 32))\n"
        "across = ga.window(plane, (1, 32), stride=(1, 32))\n"
        "down = ga.window(plane, (16, 1), stride=(16, 1))\n"
        "hood = ga.heads(across, down)\n"
        "relations = ga.relations.offsets(across, by=0), ga.relations.offsets(down)",
        (5, 8),
    ),
    "radial": Shown(
        "Radial Attention",
        "Windows that are halved where the distance in time doubles "
        "([layers](../tests/real_models/test_radial.py)).",
        "frames, tokens = 12, 32\n"
        "time, line = ga.grids.cartesian(frames), ga.grids.cartesian(tokens)\n"
        "apart = np.abs(np.arange(frames)[:, None] - np.arange(frames)).clip(1)\n"
        "\n\n"
        "def octave(n):\n"
        '    """Frames at a distance of 2^n to 2^(n + 1), with a window for it."""\n'
        "    near = (2**n <= apart) & (apart < 2 ** (n + 1))\n"
        "    times = ga.from_edges(time, time, np.append(0, near.sum(1).cumsum()), np.nonzero(near)[1])\n"
        '    return ga.product(times, ga.window(line, 2 * (tokens // 2**n) - 1, boundary="clip"))\n'
        "\n\n"
        "hood = ga.union(*map(octave, range(frames.bit_length())))",
        (2, 16),
    ),
    "torch_harmonics": Shown(
        "Spherical transformers of torch-harmonics",
        "Discs on lat-lon grids ([their layers on this operator](compat.md#torch-harmonics)).",
        "grid = ga.grids.equiangular(37, 72)\n"
        "hood = ga.geodesic(grid, radius=1.001 * 15)  # as theirs of theta_cutoff = radians(15)",
        (6, 20),
    ),
}

#: pages of the gallery: their paths, titles and first words
PAGES: dict[str, tuple[str, str, dict[str, Shown]]] = {
    "pictures.md": (
        "Neighborhoods in pictures",
        "Each picture shows the keys that one query sees.",
        NEIGHBORHOODS,
    ),
    "pictures-grids.md": (
        "Grids in pictures",
        "On the left the points of a grid and what each weighs, against the mean; on the right what a query "
        "sees on it. A grid of equal weights is of one colour.",
        GRIDS,
    ),
    "pictures-relations.md": (
        "Relations in pictures",
        "A relation gives every edge a number, by which a table of biases is looked up: keys of one number "
        "have one colour. What a relation costs is what its neighborhood costs, and the table.",
        RELATIONS,
    ),
    "pictures-models.md": (
        "Published models in pictures",
        "The pattern of each, at a size that can be seen. The tests that are linked hold outputs and "
        "gradients against the original's; times beside the originals are in [Real models](gallery.md).",
        MODELS,
    ),
}


@cache
def made(path: str) -> dict[str, Made]:
    """The entries of a page of the gallery, executed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    draw = drawn_with_grid if path == "pictures-grids.md" else drawn
    found = {}
    for name, entry in PAGES[path][2].items():
        values = run(entry.code)
        figure = draw(values, entry.query)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=70, bbox_inches="tight")
        plt.close(figure)
        found[name] = Made(values, file.getvalue(), cost(values))
    return found


def run(code: str) -> dict[str, Any]:
    """What an entry's code makes."""
    import numpy as np
    import torch

    import geoattn as ga

    values: dict[str, Any] = {"ga": ga, "np": np, "torch": torch}
    exec(code, values)
    if "relation" in values:
        values.setdefault("hood", values["relation"].hood)
    return values


def drawn(values: dict[str, Any], query: Any) -> Any:
    """The figure of a neighborhood or relation."""
    import numpy as np

    import geoattn as ga

    return np.ravel(ga.picture(values.get("relation", values["hood"]), query))[0].figure


def drawn_with_grid(values: dict[str, Any], query: Any) -> Any:
    """The figure of a grid: its points and weights, and what a query sees on it."""
    import matplotlib.pyplot as plt
    import numpy as np

    import geoattn as ga

    grid = values["grid"]
    if not isinstance(grid, ga.grids.SphericalGrid):
        return drawn(values, query)
    figure = plt.figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.add_gridspec(1, 2, width_ratios=(5, 3))
    weights = grid.weights / grid.weights.mean()
    style = {"cmap": "cividis", "vmin": 0.0, "vmax": max(2.0, float(np.quantile(weights, 0.99)))}
    words = "points and weights", "weight ÷ mean"
    if grid.is_global:
        axes = ga.plot.map_with_bar(figure, left, grid, weights, *words, **style)
        lat, lon = np.radians(grid.lat), np.radians((grid.lon + 180.0) % 360.0 - 180.0)
        size = 1.5 if grid.size < 3000 else 0.2
    else:
        axes = ga.plot.lat_lon_map(figure.add_subplot(left), grid, weights, words[1], **style)
        axes.set_title(words[0])
        west = axes.get_xlim()[0]
        lat, lon, size = grid.lat, (grid.lon - west) % 360.0 + west, 1.5
    axes.scatter(lon, lat, s=size, color="black", linewidths=0)
    ga.picture(values["hood"], query, ax=figure.add_subplot(right))
    return figure


def cost(values: dict[str, Any]) -> str:
    """What the plans of an entry say, and how many numbers its relation has."""
    import geoattn as ga

    hood = values["hood"]
    told = [repr(values[name]) for name in ("grid", "relation") if name in values]
    told += [repr(hood)] if "relation" not in values else []
    told += [str(ga.plans.estimate(part)) for part in (hood.parts if hood.kind == "heads" else (hood,))]
    return "\n".join(told)


def page(path: str) -> str:
    """A page of the gallery: pattern, picture, code and cost of each entry."""
    title, words, entries = PAGES[path]
    lines = [f"# {title}", "", words, ""]
    lines += [
        "What a pattern costs is what its plan says (`ga.plans.estimate`), for tiles of 64 × 64 pairs as the "
        "GPU kernels take them. All of it is made by the code beside it, when this page is built, after",
        "",
        "```python",
        "import numpy as np",
        "import torch",
        "",
        "import geoattn as ga",
        "```",
        "",
    ]
    for name, entry in entries.items():
        lines += [f"## {entry.title}", "", entry.words, "", f"![{entry.title}](pictures/{name}.png)", ""]
        lines += ["```python", entry.code, "```", "", "```text", made(path)[name].cost, "```", ""]
    return "\n".join(lines)
