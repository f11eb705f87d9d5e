"""The catalogue: every file is complete, builds, and hits numbers computed by other means."""

import json

import numpy as np
import pytest

import geoattn as ga
from geoattn._shipped import shipped

ENTRIES = ga.grids.catalogue()
KEYS = ["description", "aliases", "grid", "weights", "source", "golden"]
FAMILIES = {
    "equiangular": ("Clenshaw–Curtis", "Fejér"),
    "gaussian": ("Gauss–Legendre",),
    "reduced_gaussian": ("Gauss–Legendre",),
    "latlon": ("midpoints",),
    "healpix": ("4π / (12 nside²)",),
    "icosahedral": ("Voronoi",),
    "cubed_sphere": ("solid angles",),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_file_has_all_its_fields_and_says_its_weight_rule(name):
    content = json.loads((shipped("grids") / f"{name}.json").read_text())
    assert list(content) == KEYS
    assert content["description"]
    assert content["source"]
    assert content["grid"]["constructor"] in FAMILIES
    assert any(rule in content["weights"] for rule in FAMILIES[content["grid"]["constructor"]])
    assert name == name.casefold()


@pytest.mark.parametrize("name", ENTRIES)
def test_every_named_grid_hits_its_golden_numbers(name):
    grid, golden = ga.grids.named(name), ENTRIES[name].golden
    assert grid.size == golden["size"]
    assert grid.shape == tuple(golden.get("shape", grid.shape))
    weights = grid.weights
    np.testing.assert_allclose(weights.sum(), 4 * np.pi, rtol=1e-12)
    np.testing.assert_allclose(weights.min(), golden["weight_min"], rtol=1e-10)
    np.testing.assert_allclose(weights.max(), golden["weight_max"], rtol=1e-10)
    np.testing.assert_allclose(np.square(weights).sum(), golden["weight_square_sum"], rtol=1e-11)
    for place, index in (("first", 0), ("last", -1)):
        if place in golden and grid.size < 9e6:  # millions of HEALPix centres take seconds
            point = grid.lat.flat[index], grid.lon.flat[index]
            np.testing.assert_allclose(point, golden[place], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in ENTRIES if ENTRIES[n].golden["size"] < 300_000])
def test_named_grids_integrate_the_square_of_the_height_above_the_equator(name):
    """∫ sin²(lat) = 4π/3: exact for the quadrature rules, to second order in the spacing for cells."""
    grid = ga.grids.named(name)
    exact = ENTRIES[name].constructor in ("equiangular", "gaussian", "reduced_gaussian")
    spacing = np.sqrt(4 * np.pi / grid.size)
    integral = grid.integrate(np.sin(np.radians(grid.lat)) ** 2)
    assert abs(integral / (4 * np.pi / 3) - 1) < (1e-12 if exact else spacing**2)


@pytest.mark.parametrize(
    ("name", "points"),
    [("N32", 6114), ("N80", 35718), ("N128", 88838), ("N320", 542080), ("N640", 2140702)],
)
def test_classic_tables_have_the_totals_that_ecmwf_gives(name, points):
    """Totals from the GRIB files of these grids; each table repeats its own total."""
    table = json.loads((shipped("grids") / "tables" / f"{name}.json").read_text())
    assert table["points"] == 2 * sum(table["points_per_row"]) == points
    assert ga.grids.reduced_gaussian(name).size == points


@pytest.mark.parametrize("path", sorted((shipped("grids") / "tables").glob("*.json")), ids=lambda p: p.stem)
def test_tables_are_fit_for_fast_fourier_transforms_and_never_narrow_towards_the_equator(path):
    """ECMWF chose counts of the form 2^p 3^q 5^r, growing to 4 N at the equator."""
    rows = np.array(json.loads(path.read_text())["points_per_row"])
    number = int(path.stem[1:])
    assert len(rows) == number
    assert rows[-1] == 4 * number
    assert (np.diff(rows) >= 0).all()
    for prime in (2, 3, 5):
        while (divisible := rows % prime == 0).any():
            rows = np.where(divisible, rows // prime, rows)
    assert (rows == 1).all()


def test_octahedral_totals():
    sizes = {name: ga.grids.named(name).size for name in ("O96", "O320", "O640", "O1280")}
    assert sizes == {"O96": 40320, "O320": 421120, "O640": 1661440, "O1280": 6599680}


def test_no_two_entries_are_the_same_grid_and_no_two_names_clash():
    assert len(ENTRIES) >= 25
    assert len({entry.grid().digest for entry in ENTRIES.values()}) == len(ENTRIES)
    names = [name.casefold() for e in ENTRIES.values() for name in (e.name, *e.aliases)]
    assert len(set(names)) == len(names)


def test_names_and_aliases_find_the_same_grid_in_any_case():
    for entry in ENTRIES.values():
        for alias in entry.aliases:
            assert ga.grids.named(alias.upper()) == entry.grid()
    assert ga.grids.named("gfs-0.25") == ga.grids.equiangular(721, 1440)
    assert ga.grids.named("N320") == ga.grids.reduced_gaussian("N320")


def test_an_unknown_name_lists_the_nearest_ones():
    with pytest.raises(ValueError, match=r"no grid named 'era5-0.35'; near it: .*era5-0.25"):
        ga.grids.named("era5-0.35")
    with pytest.raises(ValueError, match=r"no grid named 'qqqqqq'.*ga.grids.catalogue\(\) lists all"):
        ga.grids.named("qqqqqq")


def test_the_catalogue_prints_one_line_per_entry():
    lines = repr(ENTRIES).splitlines()
    assert len(lines) == len(ENTRIES)
    assert lines == sorted(lines)
    line = next(line for line in lines if line.startswith("era5-1.5 "))
    assert "29,040 points" in line
    assert "s2s-1.5" in line
    assert ENTRIES["era5-1.5"].grid().shape == (121, 240)
    with pytest.raises(KeyError):
        ENTRIES["era5"]
