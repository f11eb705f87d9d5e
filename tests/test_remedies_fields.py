"""What schemas, masks, regridding and scores refuse: each remedy that a message names is carried out."""

import numpy as np
import pytest
import torch

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")
cftime = pytest.importorskip("cftime", reason="dates of other calendars")

from geoattn.xarray import Schema, metrics, to_tensor, to_xarray  # noqa: E402

HOUR = np.timedelta64(1, "h")
LAT, LON = np.linspace(90, -90, 7), np.arange(0, 360, 30.0)


def data(lat=LAT, lon=LON, steps=4, levels=(500, 850)):
    values = 280 + np.random.default_rng(0).standard_normal((steps, len(levels), len(lat), len(lon)))
    time = np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.arange(steps)
    coords = {"time": time, "level": list(levels), "latitude": lat, "longitude": lon}
    return xr.Dataset({"t": (tuple(coords), values.astype("f4"), {"units": "K"})}, coords)


GOOD = data()
SCHEMA = Schema.of(GOOD)
FORECAST = GOOD + 1
LAND = (GOOD["t"][0, 0] > 280).drop_vars(["time", "level"])


def score(forecast, truth):
    return metrics.bias(forecast, truth)


# ---------------------------------------------------------------- data sets and schemas


def fits(ds, value=GOOD):
    """The data set is taken, and holds what it should."""
    tensor = to_tensor(ds, SCHEMA)
    if value is not None:
        torch.testing.assert_close(tensor, to_tensor(value, SCHEMA), rtol=1e-5, atol=1e-3)


def test_arrays_are_made_data_sets(refused_by):
    with refused_by("xarray/schema/fit.py", "a schema describes an xarray Dataset") as said:
        to_tensor(GOOD["t"], SCHEMA)
    fits(said.run("array.to_dataset(", "t", array=GOOD["t"]))
    with refused_by("xarray/schema/schema.py", "a schema is read off an xarray Dataset") as said:
        Schema.of(GOOD["t"])
    assert Schema.of(said.run("array.to_dataset(", "t", array=GOOD["t"])) == SCHEMA


def test_variables_that_do_not_fit(refused_by):
    with refused_by("xarray/schema/fit.py", "if it is called otherwise") as said:
        to_tensor(GOOD.rename(t="q"), SCHEMA)
    fits(said.run("ds.rename(", ds=GOOD.rename(t="q")))
    with refused_by("xarray/schema/fit.py", "if it is called otherwise") as said:
        score(FORECAST, GOOD.rename(t="q"))
    assert score(FORECAST, said.run("truth.rename(", truth=GOOD.rename(t="q")))["t"].notnull().all()
    with refused_by("xarray/schema/fit.py", "holds {array.dtype} in the data set, but") as said:
        to_tensor(GOOD.astype(int), SCHEMA)
    fits(said.run("ds['t'] = ", ds=GOOD.astype(int)), GOOD.astype(int).astype("f4"))
    packed = GOOD.assign(t=((GOOD["t"] - 280) / 1e-3).round().astype("i2"))
    packed["t"].attrs.update(units="K", scale_factor=1e-3, add_offset=280.0)
    with refused_by("xarray/schema/values.py", "holds numbers as a file stores them") as said:
        to_tensor(packed, SCHEMA)
    fits(said.run("ds = ", ds=packed).astype("f4"))
    with refused_by("xarray/schema/values.py", "holds {array.dtype}, not real numbers") as said:
        to_tensor(GOOD.astype(str), SCHEMA)
    fits(GOOD.assign(t=said.run("ds['t'].astype(", ds=GOOD.astype(str))))
    with refused_by("xarray/schema/values.py", "holds {array.dtype}, not real numbers") as said:
        to_tensor(GOOD.astype(complex), SCHEMA)
    fits(GOOD.assign(t=said.run("ds['t'].real", ds=GOOD.astype(complex))))


@pytest.mark.parametrize(("found", "change"), [("degC", -273.15), ("furlong", 0)])
def test_units_that_differ(refused_by, found, change):
    other = GOOD.assign(t=(GOOD["t"] + change).assign_attrs(units=found))
    blank = () if change else ("ds['t']",)
    with refused_by("xarray/schema/units.py", "is in {found} in {here}, but in") as said:
        to_tensor(other, SCHEMA)
    fits(said.run("ds['t'] = ", *blank, ds=other.copy()))
    wrong = GOOD.assign(t=GOOD["t"].assign_attrs(units=found))
    fits(said.run("ds['t'].attrs", ds=wrong))
    kelvin = FORECAST.assign(t=FORECAST["t"].assign_attrs(units="K"))
    for forecast, truth in ((kelvin, other), (kelvin["t"], other["t"])):
        with refused_by("xarray/schema/units.py", "is in {found} in {here}, but in") as said:
            score(forecast, truth)
        name = "truth['t']" if isinstance(truth, xr.Dataset) else "truth"
        fixed = said.run(f"{name} = ", *[name] * len(blank), truth=truth.copy())
        xr.testing.assert_allclose(score(forecast, fixed), 0 * score(forecast, fixed) + 1, atol=1e-3)
        said.run(f"{name}.attrs", truth=truth.copy())


def test_levels_that_differ(refused_by):
    for one in (GOOD.isel(level=0, drop=True), GOOD.isel(level=0)):
        schema = Schema.of(GOOD.isel(level=[0]))
        with refused_by("xarray/schema/fit.py", "without the schema's") as said:
            to_tensor(one, schema)
        assert to_tensor(said.run("ds['t'] = ", "500", ds=one.copy()), schema).shape == (4, 1, 7, 12)
    bare = GOOD.drop_vars("level")
    with refused_by("xarray/schema/fit.py", "has no coordinate that names its levels") as said:
        to_tensor(bare, SCHEMA)
    fits(said.run("ds = ", "500, 850", ds=bare))
    with refused_by("xarray/schema/variable.py", "has no coordinate that names its levels") as said:
        Schema.of(bare)
    assert Schema.of(said.run("ds.assign_coords(", "500, 850", ds=bare)) == SCHEMA
    for factor in (100, 0.01):
        other = GOOD.assign_coords(level=GOOD["level"] * factor)
        with refused_by("xarray/schema/fit.py", "lacks the levels {absent}") as said:
            to_tensor(other, SCHEMA)
        fits(said.run("ds = ", ds=other))
    less = GOOD.isel(level=[0])
    with refused_by("xarray/schema/fit.py", "lacks the levels {absent}") as said:
        to_tensor(less, SCHEMA)
    assert to_tensor(less, said.run("ga.xarray.Schema.of(", ds=less)).shape == (4, 1, 7, 12)
    twice = xr.concat([GOOD, GOOD.isel(level=[0])], "level")
    with refused_by("xarray/schema/levels.py", "{dim} repeats") as said:
        Schema.of(twice)
    assert Schema.of(said.run("ds.drop_duplicates(", ds=twice)) == SCHEMA


@pytest.mark.parametrize(
    "other",
    [
        GOOD.isel(latitude=slice(None, None, -1)),
        GOOD.roll(longitude=5, roll_coords=True),
        GOOD.isel(latitude=slice(None, None, -1)).roll(longitude=5, roll_coords=True),
    ],
)
def test_points_in_another_order(refused_by, other):
    with refused_by("xarray/schema/fit.py", "in another order, {found}") as said:
        to_tensor(other, SCHEMA)
    fits(said.run("ds.", ds=other))
    with refused_by("xarray/schema/fit.py", "in another order, {found}") as said:
        score(FORECAST, other)
    xr.testing.assert_allclose(score(FORECAST, said.run("truth.", truth=other)), score(FORECAST, GOOD))


def test_points_of_other_grids(refused_by):
    nested, ring = (
        xr.Dataset(
            {"t": (("cell",), grid.lat.astype("f4"))}, {"lat": ("cell", grid.lat), "lon": ("cell", grid.lon)}
        )
        for grid in (ga.grids.healpix(4), ga.grids.healpix(4, "ring"))
    )
    schema = Schema.of(nested)
    with refused_by("xarray/schema/fit.py", "in another order, {found}") as said:
        to_tensor(ring, schema)
    fixed = said.run("ga.xarray.regrid(", ds=ring, schema=schema)
    torch.testing.assert_close(to_tensor(fixed, schema), to_tensor(nested, schema))
    other = data(lat=np.linspace(90, -90, 9))
    with refused_by("xarray/schema/fit.py", "{whole} lies on the {found}") as said:
        to_tensor(other, SCHEMA)
    fits(said.run("ga.xarray.regrid(", ds=other, schema=SCHEMA), None)
    with refused_by("xarray/schema/fit.py", "{whole} lies on the {found}") as said:
        score(FORECAST, other)
    assert score(FORECAST, said.run("ga.xarray.regrid(", truth=other, forecast=FORECAST))["t"].notnull().all()


def test_schemas_of_other_dimensions(refused_by):
    members = GOOD.expand_dims(variant=2)
    with refused_by("xarray/schema/dimensions.py", "is neither known for times nor for levels") as said:
        Schema.of(members)
    assert said.run("Schema.of(ds, sample_dims", Schema=Schema, ds=members).sample_dims == ("variant", "time")
    said.says("Schema.of(ds, level_dims=['variant'])")  # below: two dimensions of levels would be refused
    named = members.isel(level=0, drop=True).assign_coords(variant=[1, 2])
    with refused_by("xarray/schema/dimensions.py", "is neither known for times nor for levels") as said:
        Schema.of(named)
    assert len(said.run("Schema.of(ds, level_dims", Schema=Schema, ds=named)) == 2
    said.says("Schema.of(ds, sample_dims=['variant'])")
    two = GOOD.expand_dims(depth=[1.0, 2.0])
    with refused_by("xarray/schema/dimensions.py", "has several level dimensions") as said:
        Schema.of(two)
    fixed = said.run("ds.stack(", ds=two)
    schema = Schema.of(fixed)
    assert len(schema) == 4
    again = to_xarray(to_tensor(fixed, schema), schema, fixed)["t"].transpose(*fixed["t"].dims)
    np.testing.assert_array_equal(again, fixed["t"])
    assert to_tensor(fixed, schema).shape == (4, 4, 7, 12)
    rows = GOOD.assign(mean=GOOD["t"].mean("longitude"))
    with refused_by("xarray/schema/variable.py", "Leave it out, Schema.of(ds") as said:
        Schema.of(rows, ["t", "mean"])
    assert said.run("Schema.of(", "'t'", Schema=Schema, ds=rows).names == ("t",)
    two = GOOD.assign(q=GOOD["t"].rename(time="step"))
    with refused_by("xarray/schema/schema.py", "has the sample dimensions {dims}, but") as said:
        Schema.of(two)
    for name in ("t", "q"):
        assert said.run("Schema.of(", Schema=Schema, ds=two, variables=[name]).names == (name,)


def test_tensors_and_their_masks(refused_by):
    tensor = to_tensor(GOOD, SCHEMA)
    with refused_by("xarray/schema/tensors.py", "leading axes, but they are named") as said:
        to_xarray(tensor[None], SCHEMA, GOOD)
    names = {"tensor": tensor[None], "schema": SCHEMA, "coords": GOOD}
    ds = said.run("to_xarray(", "'number', 'time'", to_xarray=to_xarray, **names)
    assert ds["t"].sizes["number"] == 1
    holes = GOOD.where(GOOD["t"] < 281)
    with refused_by("xarray/schema/tensors.py", "is {} at {sample}") as said:
        to_tensor(holes, SCHEMA)
    schema = said.run("Schema.of(", Schema=Schema, ds=holes)
    tensor, mask = to_tensor(holes, schema, return_mask=True)
    with refused_by("xarray/schema/tensors.py", "may be missing, differently in each sample") as said:
        to_xarray(tensor, schema, holes)
    again = said.run("to_xarray(", to_xarray=to_xarray, tensor=tensor, schema=schema, coords=holes, mask=mask)
    xr.testing.assert_equal(again["t"].transpose(*holes["t"].dims), holes["t"])
    endless = GOOD.where(GOOD["t"] < 281, np.inf)
    for where in ((), ("t",), {"t": "static"}):
        with refused_by("xarray/schema/tensors.py", "is {} at {sample}") as said:
            to_tensor(endless, Schema.of(GOOD, masked=where))
        fixed = said.run("ds['t'] = ", ds=endless.copy())
        assert to_tensor(fixed, Schema.of(holes, masked=["t"])).isfinite().all()
    schema = Schema.of(holes, masked={"t": "static"})
    with refused_by("xarray/schema/tensors.py", "is {} at {sample}") as said:
        to_tensor(holes, schema)
    assert to_tensor(holes, said.run("Schema.of(", Schema=Schema, ds=holes)).isfinite().all()


# ---------------------------------------------------------------- masks


def masked(mask, field=GOOD["t"]):
    return ga.xarray.mean(field, mask=mask)


RIGHT = masked(LAND)


def test_what_is_no_mask(refused_by):
    with refused_by("xarray/schema/fit.py", "must be an xarray DataArray of bool") as said:
        masked(LAND.values)
    xr.testing.assert_allclose(
        masked(said.run("xarray.DataArray(", xarray=xr, mask=LAND.values, field=LAND)), RIGHT
    )
    for scale in (1, 100):
        with refused_by("xarray/schema/fit.py", "must be True where a point counts and False") as said:
            masked(LAND * scale)
        xr.testing.assert_allclose(masked(said.run("mask > ", mask=LAND * scale)), RIGHT)
        means = said.run("ga.xarray.mean(", field=GOOD["t"], fraction=LAND * 1.0)
        xr.testing.assert_allclose(means, RIGHT)


@pytest.mark.parametrize(
    "other",
    [
        LAND[::-1],
        LAND.assign_coords(longitude=(LON + 180) % 360 - 180).sortby("longitude"),
        LAND.assign_coords(longitude=(LON + 30) % 360 - 30).sortby("longitude"),
    ],
)
def test_masks_in_another_order(refused_by, other):
    if other["longitude"][0] == 0:
        with refused_by("xarray/schema/fit.py", "in the other direction than the") as said:
            masked(other)
    else:
        with refused_by("xarray/schema/fit.py", "{what} counts {dim} from") as said:
            masked(other)
    xr.testing.assert_allclose(masked(said.run("mask.", mask=other)), RIGHT)


def test_fields_from_minus_180(refused_by):
    field = GOOD["t"].assign_coords(longitude=(LON + 180) % 360 - 180).sortby("longitude")
    with refused_by("xarray/schema/fit.py", "{what} counts {dim} from") as said:
        masked(LAND, field)
    xr.testing.assert_allclose(masked(said.run("mask.", mask=LAND), field), RIGHT)


def test_masks_that_lie_elsewhere(refused_by):
    field = GOOD["t"]
    fine = LAND.astype(float).interp(longitude=np.arange(0, 331, 15.0), method="nearest") > 0.5
    with refused_by(
        "xarray/schema/fit.py", "select the same ones, {what}.sel({dim}={other}[{dim}], method"
    ) as said:
        masked(fine)
    xr.testing.assert_allclose(masked(said.run("mask.sel(", mask=fine, field=field)), RIGHT)
    other = LAND.assign_coords(longitude=LON + 10)
    with refused_by("xarray/schema/fit.py", "{what} and {other} differ along") as said:
        masked(other)
    moved = said.run("ga.xarray.regrid(", mask=other, field=field)
    xr.testing.assert_allclose(
        masked(moved), RIGHT, atol=0.1
    )  # rows at a pole are turned by the nearest point
    bare = LAND[1:].drop_vars(["latitude", "longitude"])
    with refused_by("xarray/schema/fit.py", "has no coordinate to tell which these are") as said:
        masked(bare)
    coords = said.run("ga.xarray.coordinates(", grid=SCHEMA.grid)
    named = bare.assign_coords(longitude=coords["longitude"], latitude=coords["latitude"][1:])
    whole = named.reindex(latitude=coords["latitude"], fill_value=bool(LAND[0, 0]))
    assert masked(whole, GOOD["t"]).notnull().all()


def test_masks_of_other_dimensions(refused_by):
    with refused_by("xarray/schema/fit.py", "has the dimensions {mine.dims}, the") as said:
        masked(LAND.expand_dims(plev=[500, 850]))
    fixed = said.run("mask.rename(", mask=LAND.expand_dims(plev=[500, 850]))
    xr.testing.assert_allclose(masked(fixed), RIGHT)
    with refused_by("xarray/schema/fit.py", "has the dimensions {mine.dims}, the") as said:
        masked(LAND.expand_dims(number=3))
    xr.testing.assert_allclose(masked(said.run("mask.isel(", mask=LAND.expand_dims(number=3))), RIGHT)
    for levels in ([850, 500], [400, 500, 850], [500, 850, 850]):
        other = LAND.expand_dims(level=levels)
        with refused_by("xarray/schema/fit.py", "or another order: select the same") as said:
            masked(other)
        xr.testing.assert_allclose(masked(said.run("mask.", mask=other, field=GOOD["t"])), RIGHT)
    less = LAND.expand_dims(level=[850])
    with refused_by("xarray/schema/fit.py", "{what} lacks {dim} {} and") as said:
        masked(less)
    xr.testing.assert_allclose(
        masked(less, said.run("field.sel(", mask=less, field=GOOD["t"])), RIGHT.sel(level=[850])
    )


def test_masks_of_other_times(refused_by):
    field = GOOD["t"]
    jittered = field["time"].values + np.timedelta64(3, "ms") * np.array([0, 1, 2, -1])
    longer = np.append(jittered, jittered[-1] + 6 * HOUR)
    for times in (longer, longer[[0, 2, 1, 3, 4]]):
        mask = LAND.expand_dims(time=times)
        with refused_by("xarray/schema/fit.py", "or another order: select the same") as said:
            masked(mask)
        xr.testing.assert_allclose(masked(said.run("mask.", mask=mask, field=field)), RIGHT)
    less = LAND.expand_dims(time=jittered[[0, 1, 3]])
    with refused_by("xarray/schema/fit.py", "{what} lacks {dim} {} and") as said:
        masked(less)
    chosen = said.run("field.sel(", mask=less, field=field)
    xr.testing.assert_allclose(masked(less, chosen), RIGHT[[0, 1, 3]])


def test_masks_from_another_meridian_up_to_rounding(refused_by):
    lat, lon = np.array([90.0, 0, -90]), 179.875 + np.arange(1440) * 0.25
    field = xr.DataArray(np.ones((3, 1440)), {"latitude": lat, "longitude": lon}, ("latitude", "longitude"))
    mask = (field > 0).assign_coords(longitude=np.float32(lon % 360 - 2e-4)).sortby("longitude")
    with refused_by("xarray/schema/fit.py", "{what} counts {dim} from") as said:
        masked(mask, field)
    assert float(masked(said.run("mask.", mask=mask), field)) == pytest.approx(1)


def test_masks_of_lists_of_points(refused_by):
    nested, ring = ga.grids.healpix(4), ga.grids.healpix(4, "ring")
    field, other = (
        xr.DataArray(g.lat, {"lat": ("cell", g.lat), "lon": ("cell", g.lon)}, ("cell",), "t")
        for g in (nested, ring)
    )
    with refused_by("xarray/schema/fit.py", "lies elsewhere than the") as said:
        masked(other > 0, field)
    moved = said.run("ga.xarray.regrid(", mask=other > 0, field=field)
    assert float(masked(moved, field)) == pytest.approx(nested.lat[nested.lat > 0].mean())

    def declared(grid):
        crs = {"grid_mapping_name": "healpix", "healpix_nside": 4, "indexing_scheme": grid.order}
        return xr.DataArray(grid.lat, {"crs": ((), 0, crs)}, ("cell",), "t")

    field, other = declared(nested), declared(ring) > 0
    with refused_by("xarray/schema/fit.py", "{what} lies on the {one}") as said:
        masked(other, field)
    moved = said.run("ga.xarray.regrid(", mask=other, field=field)
    assert float(masked(moved, field)) == pytest.approx(nested.lat[nested.lat > 0].mean())


# ---------------------------------------------------------------- means, maps, regridding


def test_means_and_maps(refused_by):
    holes = GOOD["t"].where(LAND)
    with refused_by("xarray/fields.py", "They are never skipped in silence") as said:
        ga.xarray.mean(holes)
    mask = said.run("field.notnull()", field=holes)
    said.says("mask=field.notnull()")
    xr.testing.assert_allclose(ga.xarray.mean(holes, mask=mask), RIGHT)
    two = GOOD.assign(t=holes, u=holes.shift(latitude=1))  # of several variables, by one remedy
    with refused_by("xarray/fields.py", "They are never skipped in silence") as said:
        two.geoattn.mean()
    mask = said.run("ds.notnull()", ds=two)
    said.says("mask=ds.notnull()")
    means = two.geoattn.mean(mask=mask)
    xr.testing.assert_allclose(means.t, RIGHT)
    assert means.u.notnull().all()
    spoiled = holes.copy()
    spoiled[(0, 0, *np.argwhere(LAND.values)[0])] = np.inf
    with refused_by("xarray/fields.py", "They are never skipped in silence") as said:
        ga.xarray.mean(spoiled, mask=holes.notnull())
    mask = said.run("mask & np.isfinite(", mask=holes.notnull(), field=spoiled)
    said.says("mask=mask")
    assert np.isfinite(ga.xarray.mean(spoiled, mask=mask)).all()
    for other in (GOOD["t"] * 1j, GOOD["t"].round().astype("timedelta64[ns]"), GOOD["t"].astype(str)):
        more = GOOD.assign(other=other)
        with refused_by("xarray/schema/schema.py", "is no field of real numbers") as said:
            more.geoattn.mean()
        xr.testing.assert_allclose(said.run("ds.drop_vars(", ds=more).geoattn.mean(), GOOD.geoattn.mean())
    with pytest.raises(
        ValueError, match=r"no variable of ds holds real numbers on .*: there is 'zonal' of float"
    ):
        GOOD.assign(zonal=GOOD["t"].mean("longitude"))[["zonal"]].assign_coords(GOOD.coords).geoattn.mean()
    pytest.importorskip("matplotlib", reason="maps are drawn")
    from matplotlib.figure import Figure

    from geoattn.plot import maps

    with refused_by("xarray/fields.py", "one variable is plotted") as said:
        ga.xarray.plot(GOOD)
    array = said.run("ds['", "t", ds=GOOD)
    with pytest.raises(TypeError, match="an xarray DataArray is plotted, got ndarray"):
        ga.xarray.plot(GOOD["t"].values)
    with refused_by("xarray/fields.py", "a map shows one field") as said:
        ga.xarray.plot(array)
    assert ga.xarray.plot(said.run("array.isel(", array=array), Figure().add_subplot()) is not None
    field = np.zeros(SCHEMA.grid.shape)
    flat = Figure().add_subplot()
    with refused_by("plot/maps.py", "needs other axes than these") as said:
        maps.draw(flat, SCHEMA.grid, field, projection="mollweide")
    round_ = said.run("figure.add_subplot(projection", figure=Figure())
    maps.draw(round_, SCHEMA.grid, field, projection="mollweide")
    maps.draw(
        said.run("figure.add_subplot()", figure=Figure()), SCHEMA.grid, field, projection="orthographic"
    )


def test_what_is_no_tensor_schema_or_grid(refused_by):
    tensor = to_tensor(GOOD, SCHEMA)
    with refused_by("operands.py", "{name} must be a torch tensor, got") as said:
        ga.xarray.to_xarray(tensor.numpy(), SCHEMA, GOOD)
    tensors = said.run("torch.as_tensor(", tensor=tensor.numpy())
    xr.testing.assert_identical(ga.xarray.to_xarray(tensors, SCHEMA, GOOD), GOOD)
    with pytest.raises(TypeError, match=r"mask must be a torch tensor, got numpy.ndarray"):
        ga.xarray.to_xarray(tensor, SCHEMA, GOOD, mask=np.ones(tensor.shape, bool))
    for call in (
        lambda schema: to_tensor(GOOD, schema),
        lambda schema: ga.xarray.to_xarray(tensor, schema),
        lambda schema: ga.xarray.Windows("nowhere.nc", schema),
        lambda schema: ga.xarray.statistics(GOOD, schema),
    ):
        with refused_by("xarray/schema/schema.py", "schema must be a schema, got") as said:
            call(["t"])
        assert said.run("ga.xarray.Schema.of(", ds=GOOD) == SCHEMA
    with refused_by("xarray/schema/coordinates.py", "coordinates are those of a grid of the sphere") as said:
        ga.xarray.coordinates(GOOD)
    assert said.run("ga.grids.from_xarray(", ds=GOOD) == SCHEMA.grid
    operator, field = ga.xarray.Regridder(SCHEMA.grid, ga.grids.healpix(2)), GOOD.t[0, 0].values
    with refused_by("xarray/regridding/regridder.py", "got {got}: np.asarray(field)") as said:
        operator(field.tolist())
    np.testing.assert_allclose(operator(said.run("np.asarray(", field=field.tolist())), operator(field), 1e-5)


def test_scores_of_a_truth_with_gaps_on_another_grid(refused_by):
    fine = data(lat=np.linspace(90, -90, 13))
    truth = fine.where(fine.t[0, 0].drop_vars(["time", "level"]) > 280)
    with refused_by("xarray/schema/fit.py", "{whole} lies on the {found}") as said:
        score(FORECAST, truth)
    moved = said.run("ga.xarray.regrid(", truth=truth, forecast=FORECAST)
    said.says("mask='both'")
    assert moved.t.isnull().any()
    assert metrics.bias(FORECAST, moved, mask="both").t.notnull().all()


def test_the_mean_over_the_globe_of_a_region(refused_by):
    region = GOOD.isel(latitude=slice(1, 5))
    with refused_by("xarray/fields.py", "the mean over the globe is asked for") as said:
        ga.xarray.mean(region)
    own = said.run("ds.weighted(", ds=region)["t"]
    area = np.cos(np.radians(region["latitude"]))  # bands of equal height
    np.testing.assert_allclose(
        own, (region["t"] * area).mean(("latitude", "longitude")) / area.mean(), rtol=1e-5
    )


def test_regridding(refused_by):
    target = ga.grids.healpix(2)
    operator = ga.xarray.Regridder(SCHEMA.grid, target)
    field = GOOD["t"][0, 0]
    with refused_by("xarray/regridding/regridder.py", "would not be looked at") as said:
        operator(field)
    moved = said.run("ga.xarray.regrid(", field=field, target=target)
    np.testing.assert_allclose(operator(said.run("field.values", field=field)), moved)
    for labels in (np.arange(84).reshape(7, 12), torch.arange(84).reshape(7, 12)):
        with refused_by(
            "xarray/regridding/regridder.py", "labels or counts whose average is none of them"
        ) as said:
            operator(labels)
        said.says("method='nearest' or method='majority'")
        for method in ("nearest", "majority"):
            assert ga.xarray.Regridder(SCHEMA.grid, target, method=method)(labels).dtype == labels.dtype
        assert operator(said.run("field.", field=labels)).shape == (48,)
    holes = np.where(LAND, np.nan, 1.0)
    with refused_by("xarray/regridding/regridder.py", "leaves them out of the means") as said:
        operator(holes)
    said.says("missing='renormalise'", "missing='propagate'")
    for missing in ("renormalise", "propagate"):
        np.testing.assert_allclose(np.nanmax(operator(holes, missing=missing)), 1)
    rows = GOOD.assign(rows=GOOD["t"].mean("longitude"))
    with refused_by("xarray/regrid.py", "is no field of real numbers on the") as said:
        ga.xarray.regrid(rows, target)
    assert ga.xarray.regrid(said.run("ds.drop_vars(", ds=rows), target)["t"].sizes["cell"] == 48
    flags = GOOD.assign(t=GOOD["t"].round().assign_attrs(flag_values=[280, 281]))
    with refused_by("xarray/schema/values.py", "whose average is another label") as said:
        ga.xarray.regrid(flags, target)
    said.says("method='nearest' or method='majority'")
    for method in ("nearest", "majority"):
        assert ga.xarray.regrid(flags, target, method=method)["t"].sizes["cell"] == 48
    with refused_by("xarray/schema/values.py", "whose average is another label") as said:
        ga.xarray.mean(flags)
    share = said.run("ga.xarray.mean(", "280", ds=flags)
    assert float(share.max()) < 1
    with refused_by("xarray/schema/values.py", "whose average is another label") as said:
        ga.xarray.mean(flags["t"])
    xr.testing.assert_allclose(said.run("ga.xarray.mean(", "280", field=flags["t"]), share)
