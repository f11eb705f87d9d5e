"""Files of weights: ours read by us and by CDO, CDO's read by us, and what is no such file."""

import shutil
import subprocess

import numpy as np
import pytest

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")
pytest.importorskip("netCDF4", reason="weights are kept in netCDF")

G, Regridder, regrid = ga.grids, ga.xarray.Regridder, ga.xarray.regrid
SOURCE = G.equiangular(36, 72, poles=False)
BENT = np.arange(10.0, 16.0)[:, None] + 0.1 * np.arange(6)
TARGETS = [
    G.gaussian(16, 32),
    G.equiangular(19, 36, south_first=True),
    G.reduced_gaussian("O8"),
    G.healpix(4),
    G.healpix(3, "ring"),
    G.cubed_sphere(4),
    G.icosahedral(2),
    G.regional(np.arange(30.0, 41.0), np.arange(350.0, 371.0)),
    G.regional(BENT, BENT.T),
]


def smooth(grid):
    x, y, z = np.moveaxis(grid.xyz, -1, 0)
    return np.exp(x) * np.sin(y + 1) + z**3 + x * z


@pytest.mark.parametrize("method", ["conservative", "interpolation", "nearest"])
@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_what_is_written_is_read(target, method, tmp_path):
    operator = Regridder(SOURCE, target, method)
    operator.save(tmp_path / "weights.nc")
    for read in (
        Regridder.open(tmp_path / "weights.nc"),
        Regridder.open(tmp_path / "weights.nc", SOURCE, target),
    ):
        assert read.method == method
        assert read.source == SOURCE
        assert read.target.size == target.size
        np.testing.assert_allclose(read.target.xyz.reshape(-1, 3), target.xyz.reshape(-1, 3), atol=1e-12)
        assert abs(read.matrix - operator.matrix).max() == 0
        np.testing.assert_allclose(read(smooth(SOURCE)).ravel(), operator(smooth(SOURCE)).ravel(), rtol=1e-14)
    if not isinstance(target, G.RegionalLatLon | G.Curvilinear | G.CubedSphere):  # those are read as cells
        assert Regridder.open(tmp_path / "weights.nc").target == target
    corners = xr.open_dataset(tmp_path / "weights.nc")
    assert corners.src_address.min() >= 1
    assert corners.src_grid_dims.values.tolist() == [72, 36]
    centre = target.xyz.reshape(-1, 3)
    around = ga.grids.sphere.unit_vectors(
        corners.dst_grid_corner_lat.values, corners.dst_grid_corner_lon.values
    )
    assert ga.grids.polygons.inside(centre, around).all()


def test_normalisation_and_parts_are_kept(tmp_path):
    source = G.regional(np.arange(30.0, 41.0), np.arange(350.0, 371.0))
    for normalisation in ("fracarea", "destarea"):
        operator = Regridder(source, G.healpix(16), "conservative", normalisation)
        operator.save(tmp_path / "weights.nc")
        read = Regridder.open(tmp_path / "weights.nc")
        np.testing.assert_array_equal(read(smooth(source)), operator(smooth(source)))
        assert read.weights.normalisation == normalisation


def renamed(path, out):
    """The same weights by ESMF's names, and as xESMF keeps them."""
    ds = xr.open_dataset(path)
    links = {"col": ("n_s", ds.src_address.values), "row": ("n_s", ds.dst_address.values)}
    bare = xr.Dataset({**links, "S": ("n_s", ds.remap_matrix.values[:, 0])})
    bare.to_netcdf(out[1])
    for side, letter in (("src", "a"), ("dst", "b")):
        for theirs, ours in (
            ("yc", "center_lat"),
            ("xc", "center_lon"),
            ("yv", "corner_lat"),
            ("xv", "corner_lon"),
        ):
            bare[f"{theirs}_{letter}"] = ds[f"{side}_grid_{ours}"].rename(
                {d: f"{d}_{letter}" for d in ds[f"{side}_grid_{ours}"].dims}
            )
        bare[f"frac_{letter}"] = ((f"n_{letter}",), ds[f"{side}_grid_frac"].values)
        bare[f"{side}_grid_dims"] = ds[f"{side}_grid_dims"]
    bare.attrs = {"normalization": "destarea", "map_method": "Conservative remapping"}
    bare.to_netcdf(out[0])


def test_esmf_and_xesmf(tmp_path, refused_by):
    target = G.healpix(4)
    operator = Regridder(SOURCE, target, "conservative", "destarea")
    path, whole, bare = (tmp_path / f"{name}.nc" for name in ("weights", "esmf", "xesmf"))
    operator.save(path)
    renamed(path, (whole, bare))
    read = Regridder.open(whole)
    assert (read.source, read.target) == (SOURCE, target)
    np.testing.assert_allclose(read(smooth(SOURCE)), operator(smooth(SOURCE)), rtol=1e-14)
    with refused_by("xarray/regridding/scrip.py", "as xESMF's files do not: give both") as said:
        Regridder.open(bare)
    read = said.run("ga.xarray.Regridder.open(", "SOURCE", "TARGET", path=bare, SOURCE=SOURCE, TARGET=target)
    np.testing.assert_allclose(read(smooth(SOURCE)), operator(smooth(SOURCE)), rtol=1e-12)


# --- CDO ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cdo(tmp_path_factory):
    if shutil.which("cdo") is None:
        pytest.skip("cdo is not on the path: apt-get install cdo; it is the independent witness")
    folder = tmp_path_factory.mktemp("cdo")
    values = smooth(SOURCE)
    values[(SOURCE.lat > 20) & (SOURCE.lon > 90) & (SOURCE.lon < 150)] = np.nan
    ds = xr.Dataset({"t": (("latitude", "longitude"), smooth(SOURCE))}, ga.xarray.coordinates(SOURCE).coords)
    ds.to_netcdf(folder / "in.nc")
    ds.assign(t=ds.t.copy(data=values)).to_netcdf(folder / "holes.nc")

    def run(*command):
        done = subprocess.run(["cdo", "-O", *map(str, command)], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr

    run.folder = folder
    return run


def curvilinear_file(grid, path):
    """A file of an array of cells that CDO reads."""
    ds = ga.xarray.coordinates(grid)
    if "latitude_bounds" not in ds:
        lat, lon = ga.grids.corners.corner_places(grid)
        ds = ds.assign(
            latitude_bounds=(("y", "x", "corner"), lat.reshape(*grid.shape, 4)),
            longitude_bounds=(("y", "x", "corner"), lon.reshape(*grid.shape, 4)),
        )
        for name in ("latitude", "longitude"):
            ds[name].attrs["bounds"] = f"{name}_bounds"
    ds["t"] = (("y", "x"), np.zeros(grid.shape))
    ds.t.attrs["coordinates"] = "latitude longitude"
    ds.to_netcdf(path)


@pytest.mark.parametrize("target", ["r18x9", "F8", "curvilinear"])
@pytest.mark.parametrize("field", ["in", "holes"])
def test_cdo_agrees(cdo, target, field):
    name = target
    if target == "curvilinear":
        grid = G.regional(3 * BENT, 4 * BENT.T)
        curvilinear_file(grid, cdo.folder / "curvilinear.nc")
        name = "curvilinear.nc"
    cdo(f"remapycon,{name}", f"{field}.nc", f"{field}-{target}.nc")
    theirs = xr.open_dataset(cdo.folder / f"{field}-{target}.nc").t.values
    if target != "curvilinear":
        grid = G.from_xarray(xr.open_dataset(cdo.folder / f"{field}-{target}.nc"))
    ours = regrid(
        xr.open_dataset(cdo.folder / f"{field}.nc"),
        grid,
        method="conservative",
        missing="renormalise",
        least=0,
    ).t.values
    there = np.isfinite(theirs) & np.isfinite(ours)
    assert (np.isfinite(theirs) == np.isfinite(ours)).mean() > 0.99  # slivers
    assert there.mean() > 0.8
    # CDO's Gaussian cells end elsewhere than halfway between rows
    assert np.abs(ours - theirs)[there].max() < (0.02 if target == "F8" else 1e-5)


def test_cdo_reads_ours_and_we_read_cdos(cdo):
    target = G.gaussian(16, 32)
    operator = Regridder(SOURCE, target, "conservative")
    operator.save(cdo.folder / "ours.nc")
    cdo("remap,F8,ours.nc", "in.nc", "by-ours.nc")
    theirs = xr.open_dataset(cdo.folder / "by-ours.nc").t
    np.testing.assert_allclose(theirs.values, operator(smooth(SOURCE)), rtol=1e-12)
    for field in ("in", "holes"):
        cdo("gencon,F8", f"{field}.nc", f"weights-{field}.nc")
        cdo(f"remap,F8,weights-{field}.nc", f"{field}.nc", "by-theirs.nc")
        read = Regridder.open(cdo.folder / f"weights-{field}.nc")
        assert (read.method, read.source, read.target) == ("conservative", SOURCE, target)
        moved = regrid(
            xr.open_dataset(cdo.folder / f"{field}.nc"), target, operator=read, missing="renormalise", least=0
        )
        expected = xr.open_dataset(cdo.folder / "by-theirs.nc").t.values
        np.testing.assert_allclose(moved.t.values, expected, rtol=1e-12)


# --- refusals -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.nc"
    Regridder(SOURCE, TARGETS[3], "conservative").save(path)
    return path


def changed(written, path, change):
    with xr.open_dataset(written) as ds:
        change(ds.load()).to_netcdf(path)
    return path


def set_at(name, value):
    def change(ds):
        ds[name][0] = value
        return ds

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_at("src_address", 2593), "1 src addresses, the first 2593, are not among the 2592 cells"),
        (set_at("dst_address", 0), "1 dst addresses, the first 0, are not among the 192 cells"),
        (set_at("remap_matrix", np.nan), "1 weights are not finite"),
        (
            lambda ds: ds.assign(dst_address=("other", ds.dst_address.values[1:])),
            r"\d+ target addresses, \d+ source addresses and \d+ weights do not belong together",
        ),
        (
            lambda ds: ds.assign(dst_grid_frac=("other", ds.dst_grid_frac.values[1:])),
            r"dst_grid_frac has \(191,\) entries for 192 cells",
        ),
    ],
)
def test_files_that_do_not_fit_themselves(written, tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        Regridder.open(changed(written, tmp_path / "w.nc", change))


def test_files_of_other_things(written, tmp_path, refused_by):
    names = {"source": SOURCE, "target": TARGETS[0]}
    path = changed(written, tmp_path / "fields.nc", lambda ds: ds.drop_vars("remap_matrix"))
    with refused_by("xarray/regridding/scrip.py", "it is no file of weights") as said:
        Regridder.open(path)
    said.run("ga.xarray.Regridder(", path=path, **names)
    assert Regridder.open(path).target == TARGETS[0]
    path = changed(
        written,
        tmp_path / "second.nc",
        lambda ds: ds.assign(remap_matrix=(("num_links", "three"), ds.remap_matrix.values * [1, 1, 1])),
    )
    with pytest.raises(ValueError, match="weights of second order, 3 for each link"):
        Regridder.open(path)
    path = changed(written, tmp_path / "none.nc", lambda ds: ds.assign_attrs(normalization="none"))
    with refused_by("xarray/regridding/scrip.py", "are areas, no shares of them") as said:
        Regridder.open(path)
    assert said.run("ga.xarray.Regridder(", **names).weights.normalisation == "fracarea"
    said.says("'fracarea' or 'destarea'")
    with refused_by("xarray/regridding/regridder.py", "a majority is no sum over weights") as said:
        Regridder(SOURCE, TARGETS[0], "majority").save(path)
    said.run("ga.xarray.Regridder(", **names).save(path)
    assert Regridder.open(path).method == "nearest"


def test_grids_that_are_others(written, refused_by):
    with refused_by("xarray/regridding/scrip.py", "to see which grid the file is for") as said:
        Regridder.open(written, SOURCE, G.healpix(2))
    assert said.run("ga.xarray.Regridder.open(", path=written).target == G.healpix(4)
    with refused_by("xarray/regridding/scrip.py", "it is another grid, or in another order") as said:
        Regridder.open(written, SOURCE, G.healpix(4, "ring"))
    assert said.run("ga.xarray.Regridder.open(", path=written).target == G.healpix(4)
