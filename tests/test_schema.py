"""Data sets to tensors and back: every convention, to the bit, or a clear refusal."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")

Schema, to_tensor, to_xarray = ga.xarray.Schema, ga.xarray.to_tensor, ga.xarray.to_xarray

TIMES = np.datetime64("2001-02-27T18", "ns") + np.arange(3) * np.timedelta64(6, "h")


def noise(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def era5():
    """Descending latitudes, 0–360, packed levels, a static field in double precision."""
    ds = xr.Dataset(
        {
            "t": (("time", "level", "latitude", "longitude"), noise(3, 2, 13, 24), {"units": "K"}),
            "t2m": (("time", "latitude", "longitude"), noise(3, 13, 24), {"units": "K", "cells": [1, 2]}),
            "z": (("latitude", "longitude"), noise(13, 24, dtype=np.float64)),
        },
        {
            "time": ("time", TIMES, {"long_name": "time"}),
            "level": ("level", np.array([500, 850], np.int32), {"units": "hPa"}),
            "latitude": ("latitude", np.linspace(90, -90, 13, dtype=np.float32), {"units": "degrees_north"}),
            "longitude": ("longitude", np.float32(15) * np.arange(24), {"units": "degrees_east"}),
        },
        {"title": "made up", "version": np.float32(0.1)},
    )
    ds.t.encoding = {"dtype": np.dtype("int16"), "scale_factor": 0.01, "add_offset": 250.0}
    ds.t.encoding["_FillValue"] = np.int16(-32767)
    ds.time.encoding = {"units": "hours since 1900-01-01", "calendar": "gregorian"}
    return ds


def weatherbench2():
    """Longitude first, south to north."""
    return xr.Dataset(
        {
            "temperature": (("time", "level", "longitude", "latitude"), noise(3, 2, 64, 32)),
            "mean_sea_level_pressure": (("time", "longitude", "latitude"), noise(3, 64, 32)),
            "land_sea_mask": (("longitude", "latitude"), noise(64, 32)),
        },
        {
            "time": TIMES,
            "level": [500, 850],
            "latitude": -87.1875 + 5.625 * np.arange(32),
            "longitude": 5.625 * np.arange(64),
        },
    )


def cmip():
    """Cell-centred, −180–180, with bounds, areas and a scalar height; bounds and areas are variables."""
    lat, lon = np.arange(-85.0, 90, 10), np.arange(-175.0, 180, 10)
    return xr.Dataset(
        {
            "tas": (("time", "lat", "lon"), noise(3, 18, 36), {"cell_measures": "area: areacella"}),
            "lat_bnds": (("lat", "bnds"), np.stack((lat - 5, lat + 5), -1)),
            "lon_bnds": (("lon", "bnds"), np.stack((lon - 5, lon + 5), -1)),
            "time_bnds": (("time", "bnds"), np.stack((TIMES, TIMES + np.timedelta64(6, "h")), -1)),
        },
        {
            "time": ("time", TIMES, {"bounds": "time_bnds"}),
            "lat": ("lat", lat, {"standard_name": "latitude", "bounds": "lat_bnds"}),
            "lon": ("lon", lon, {"standard_name": "longitude", "bounds": "lon_bnds"}),
            "height": ((), 2.0, {"units": "m", "positive": "up"}),
        },
    )


def reduced_gaussian():
    """A GRIB export: one list of points, with a level that is a single number."""
    grid = ga.grids.reduced_gaussian("O32")
    return xr.Dataset(
        {"t": (("time", "isobaricInhPa", "values"), noise(3, 2, grid.size))},
        {
            "time": TIMES,
            "isobaricInhPa": [850.0, 500.0],
            "latitude": ("values", grid.lat, {"units": "degrees_north"}),
            "longitude": ("values", grid.lon, {"units": "degrees_east"}),
            "step": np.timedelta64(0, "ns"),
        },
    )


def healpix():
    attrs = {"grid_mapping_name": "healpix", "refinement_level": 3, "indexing_scheme": "nested"}
    return xr.Dataset(
        {"t": (("time", "cell"), noise(3, 768), {"grid_mapping": "crs"}), "crs": ((), 0, attrs)},
        {"time": TIMES},
    )


def curvilinear():
    lat = np.broadcast_to(85.0 - 10 * np.arange(18)[:, None], (18, 36))
    lon = (10.0 * np.arange(36) + 3 * np.arange(18)[:, None]) % 360
    return xr.Dataset(
        {"sst": (("x", "time", "y"), noise(36, 3, 18))},
        {"time": TIMES, "lat": (("y", "x"), lat), "lon": (("y", "x"), lon)},
    )


CONVENTIONS = [era5, weatherbench2, cmip, reduced_gaussian, healpix, curvilinear]


def same(found, expected):
    """Equal to the bit, with coordinates, attributes, dtypes, the order of dimensions and encoding."""
    xr.testing.assert_identical(found, expected)
    for name in expected.variables:
        assert found[name].dims == expected[name].dims
        assert found[name].dtype == expected[name].dtype
        assert {k: found[name].encoding.get(k) for k in expected[name].encoding} == expected[name].encoding
        for key, value in expected[name].attrs.items():
            assert type(found[name].attrs[key]) is type(value)


@pytest.mark.parametrize("make", CONVENTIONS)
def test_a_round_trip_is_exact_in_every_convention(make):
    ds = make()
    schema = Schema.of(ds)
    tensor = to_tensor(ds, schema)
    assert tensor.shape == (3, len(schema), *schema.grid.shape)
    same(to_xarray(tensor, schema, ds, packing=True), ds)


@pytest.mark.parametrize("make", CONVENTIONS)
def test_a_single_time_makes_a_tensor_without_leading_axes(make):
    ds = make().isel(time=1)
    schema = Schema.of(make())
    tensor = to_tensor(ds, schema)
    assert tensor.shape == (len(schema), *schema.grid.shape)
    same(to_xarray(tensor, schema, ds, packing=True), ds)


@pytest.mark.parametrize("make", CONVENTIONS)
def test_a_schema_is_a_value_and_survives_json_and_pickle(make):
    schema = Schema.of(make(), masked={next(iter(make().data_vars)): "static"})
    assert schema == Schema.of(make(), masked={next(iter(make().data_vars)): "static"})
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict(), allow_nan=False))) == schema
    assert pickle.loads(pickle.dumps(schema)) == schema
    assert schema != Schema.of(make())
    assert hash(schema) == hash(pickle.loads(pickle.dumps(schema)))


def test_a_mask_of_a_million_points_keeps_the_schema_small():
    field = noise(721, 1440)
    land = np.repeat(np.repeat(noise(30, 60) > 1, 24, axis=1), 24, axis=0)
    field[:720][land] = np.nan
    lat, lon = np.linspace(90, -90, 721), np.arange(1440) / 4
    ds = xr.Dataset({"sst": (("lat", "lon"), field)}, {"lat": lat, "lon": lon})
    schema = Schema.of(ds, masked={"sst": "static"})
    text = json.dumps(schema.to_dict())
    assert len(text) < 50_000
    assert Schema.from_dict(json.loads(text)) == schema
    np.testing.assert_array_equal(schema.variables[0].visible[0], ~np.isnan(field))


def test_tokens_are_in_the_grids_order_whatever_the_order_of_the_files_dimensions():
    ds = weatherbench2()
    schema = Schema.of(ds)
    tensor = to_tensor(ds, schema)
    expected = ds.temperature.sel(level=850).transpose("time", "latitude", "longitude").values
    np.testing.assert_array_equal(tensor[:, schema.index("temperature", 850)], expected)
    row = ds.mean_sea_level_pressure.sel(latitude=-87.1875).values
    np.testing.assert_array_equal(tensor[:, schema.index("mean_sea_level_pressure"), 0], row)
    assert schema.labels == (
        "mean_sea_level_pressure",
        "temperature 500",
        "temperature 850",
        "land_sea_mask",
    )
    assert schema == Schema.of(ds[list(ds.data_vars)[::-1]])  # stores do not keep the order of variables


@settings(max_examples=30, deadline=None)
@given(
    order=st.permutations(["time", "level", "latitude", "longitude"]),
    levels=st.lists(st.sampled_from([500, 850]), min_size=1, unique=True),
    dtype=st.sampled_from(["float16", "float32", "float64", "int16", "int32", "uint8", "bool"]),
    missing=st.sets(st.integers(0, 2), max_size=3),
)
def test_any_order_selection_and_type_comes_back(order, levels, dtype, missing):
    values = np.random.default_rng(0).integers(0, 2, (3, 2, 13, 24)).astype(dtype)
    floats = np.dtype(dtype).kind == "f"
    if floats:
        values[list(missing), 0, 4:9, 5] = np.nan
    ds = era5()[["t"]].assign(t=(("time", "level", "latitude", "longitude"), values))
    ds = ds.transpose(*order)
    schema = Schema.of(ds, {"t": levels}, masked=["t"] if floats else ())
    tensor, mask = to_tensor(ds, schema, return_mask=True)
    assert torch.isfinite(tensor).all()
    same(to_xarray(tensor, schema, ds, mask=mask, packing=True), ds.sel(level=levels))


def test_variables_may_take_different_levels_and_are_missing_on_the_others():
    ds = era5()
    ds["u"] = ds.t + 1
    schema = Schema.of(ds, {"t": None, "u": [850]})
    assert schema.labels == ("t 500", "t 850", "u 850")
    back = to_xarray(to_tensor(ds, schema), schema, ds)
    np.testing.assert_array_equal(back.u.sel(level=850), ds.u.sel(level=850))
    assert back.u.sel(level=500).isnull().all()
    xr.testing.assert_identical(back.t, ds.t)
    torch.testing.assert_close(to_tensor(back, schema), to_tensor(ds, schema), rtol=0, atol=0)


def test_what_is_written_is_packed_only_on_demand(tmp_path):
    """Forecasts leave the range that the source was packed for; packed, 600 K would come back as -55 K."""
    ds = era5()
    schema = Schema.of(ds)
    tensor = to_tensor(ds, schema)
    tensor[:, schema.index("t", 500)] = 600.0
    to_xarray(tensor, schema, ds).to_zarr(tmp_path / "plain.zarr", consolidated=False)
    plain = xr.open_zarr(tmp_path / "plain.zarr", consolidated=False)
    assert (plain.t.sel(level=500) == 600).all()
    to_xarray(to_tensor(ds, schema), schema, ds, packing=True).to_zarr(
        tmp_path / "p.zarr", consolidated=False
    )
    packed = xr.open_zarr(tmp_path / "p.zarr", consolidated=False)
    assert packed.t.encoding["dtype"] == "int16"
    np.testing.assert_allclose(packed.t, ds.t, atol=0.0051)


def test_leading_axes_can_be_named_and_are_put_before_the_others():
    ds = weatherbench2()
    schema = Schema.of(ds).changing
    tensor = torch.stack([to_tensor(ds, schema)] * 2, dim=1)
    leads = np.array([6, 12], "timedelta64[h]").astype("timedelta64[ns]")
    coords = {"time": TIMES, "prediction_timedelta": leads, "latitude": ds.latitude, "level": [500, 850]}
    back = to_xarray(tensor, schema, coords, dims=("time", "prediction_timedelta"))
    assert back.temperature.dims == ("time", "prediction_timedelta", "level", "longitude", "latitude")
    assert set(back.coords) == set(coords)
    xr.testing.assert_equal(
        back.temperature.isel(prediction_timedelta=0, drop=True).drop_vars("latitude"),
        ds.temperature.drop_vars(["longitude", "latitude"]),
    )
    torch.testing.assert_close(to_tensor(back.assign_coords(longitude=ds.longitude), schema), tensor)
    with pytest.raises(ValueError, match=r"2 leading axes, but they are named \('time',\): .*dims="):
        to_xarray(tensor, schema, ds)


def test_a_file_with_other_names_and_dimensions_feeds_the_same_schema():
    ds = era5()
    other = ds.rename(latitude="lat", longitude="lon").transpose("lon", "lat", ...)
    other["lat"] = ("lat", ds.latitude.values.astype(np.float64))
    assert torch.equal(to_tensor(other, Schema.of(ds)), to_tensor(ds, Schema.of(ds)))


# --- masks ------------------------------------------------------------------------------------------


def with_land(static=True):
    ds = era5()
    land = noise(13, 24) > 1
    values = np.where(land, np.float32(np.nan), ds.t2m.values)
    if not static:
        values[1, 3, :] = np.nan
    ds["sst"] = ds.t2m.copy(data=values)
    return ds, land


def test_missing_values_become_fill_and_mask_and_come_back():
    ds, land = with_land()
    schema = Schema.of(ds, masked={"sst": "static"}, fills={"sst": 271.0})
    tensor, mask = to_tensor(ds, schema, return_mask=True)
    channel = schema.index("sst")
    assert torch.equal(mask[:, channel], torch.from_numpy(~land).expand(3, -1, -1))
    assert mask[:, [i for i in range(len(schema)) if i != channel]].all()
    assert (tensor[:, channel][:, land] == 271.0).all()
    same(to_xarray(tensor, schema, ds, packing=True), ds)  # the schema knows where land is
    tensor[:, channel] += 5
    assert np.array_equal(np.isnan(to_xarray(tensor, schema, ds).sst[0]), land)


def test_masks_that_change_are_given_back_by_the_caller():
    ds, _ = with_land(static=False)
    schema = Schema.of(ds, masked=["sst"])
    tensor, mask = to_tensor(ds, schema, return_mask=True)
    assert mask[0, schema.index("sst")].sum() > mask[1, schema.index("sst")].sum()
    same(to_xarray(tensor, schema, ds, mask=mask, packing=True), ds)
    with pytest.raises(ValueError, match=r"'sst' may be missing, .* mask=mask\)"):
        to_xarray(tensor, schema, ds)


def test_the_mask_hides_keys_from_attention():
    """Whatever stands in for missing values, attention over the visible points does not change."""
    ds, _ = with_land()
    hood = ga.geodesic(Schema.of(ds[["sst"]], masked=["sst"]).grid, radius=40)
    outs = []
    for fill in (0.0, 1e3):
        schema = Schema.of(ds, ["sst"], masked=["sst"], fills={"sst": fill})
        values, mask = to_tensor(ds, schema, return_mask=True)
        q = torch.ones(3, *schema.grid.shape, 1, 4)
        tokens = values.movedim(1, -1)[..., None].expand(-1, -1, -1, 1, 4)
        visible = mask.all(schema.channel_axis)
        outs.append(ga.attention(q, tokens, tokens, hood, key_mask=visible))
    assert torch.isfinite(outs[0]).all()
    torch.testing.assert_close(outs[0], outs[1])


def test_missing_values_without_a_mask_name_variable_level_time_and_the_remedy():
    ds = era5()
    ds.t[2, 1, 4, 5] = np.nan
    with pytest.raises(
        ValueError, match=r"'t 850' is nan at time 2001-02-28T06.*point \(4, 5\).*masked=\['t'\]"
    ):
        to_tensor(ds, Schema.of(ds))
    ds = era5()
    ds.t2m[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"'t2m' is inf at time 2001-02-27T18"):
        to_tensor(ds, Schema.of(ds))
    with pytest.raises(ValueError, match=r"'t2m' is inf .* only NaN stands for a missing value"):
        to_tensor(ds, Schema.of(ds, masked=["t2m"]))


def test_a_static_mask_that_moves_is_refused():
    ds, land = with_land()
    schema = Schema.of(ds, masked={"sst": "static"})
    ds.sst[2, *np.argwhere(land)[0]] = 5.0
    with pytest.raises(ValueError, match=r"'sst' is 5.0 at time 2001-02-28T06.*{'sst': 'changing'}"):
        to_tensor(ds, schema)
    ds, _ = with_land(static=False)
    with pytest.raises(ValueError, match=r"'sst' is nan at time 2001-02-28T00.*{'sst': 'changing'}"):
        to_tensor(ds, Schema.of(ds, masked={"sst": "static"}))


# --- refusals ---------------------------------------------------------------------------------------


def refuses(ds, match, *args, **options):
    with pytest.raises(ValueError, match=match):
        Schema.of(ds, *args, **options)


def test_variables_that_make_no_channels_are_refused_by_name():
    ds = era5()
    ds["zonal"] = ds.t2m.mean("longitude")
    assert "zonal" not in Schema.of(ds).names
    refuses(ds, r"'zonal' has the dimensions .* without \['longitude'\] of the grid's", ["t", "zonal"])
    refuses(ds, r"no variable 'q' in the data set", ["q"])
    refuses(ds, r"no variable 'q,t' in .*; names stand apart, 'q t' on a command line", ["q,t"])
    refuses(
        ds.assign(when=ds.time + 0 * ds.t2m.astype("timedelta64[ns]")),
        r"ds\['when'\] holds datetime",
        ["when"],
    )
    refuses(
        ds[["zonal"]].assign_coords(longitude=ds.longitude),
        r"no variable holds real numbers on the grid's .*: there is 'zonal' of float\d+ over \(",
    )
    with pytest.raises(TypeError, match="read off an xarray Dataset, got DataArray"):
        Schema.of(ds.t)


def test_mixed_resolutions_are_refused():
    ds = era5()
    coarse = xr.DataArray(noise(7, 12), dims=("lat2", "lon2"))
    refuses(
        ds.assign(coarse=coarse), r"'coarse' has the dimensions \('lat2', 'lon2'\), .*one grid", ["coarse"]
    )
    coarse = coarse.assign_coords(lat2=("lat2", np.linspace(90, -90, 7), {"units": "degrees_north"}))
    refuses(ds.assign(coarse=coarse), r"2 variables could be the latitude: \['latitude', 'lat2'\]")


def test_levels_that_cannot_be_told_are_refused():
    ds = era5()
    refuses(ds, r"'t' has no level 700: its levels are \[500, 850\]", {"t": [700]})
    refuses(ds, r"level 500 of variable 't' is asked for twice", {"t": [500, 500]})
    refuses(ds, r"no levels of variable 't' are asked for", {"t": []})
    refuses(ds, r"'t2m' has no levels to choose \[500\] from", {"t2m": [500]})
    refuses(ds.drop_vars("level"), r"'level' of variable 't' has no coordinate.*assign_coords")
    refuses(ds.assign_coords(level=[500, 500]), r"'level' repeats 500; drop one")
    both = ds.t.expand_dims(height=[2.0])
    refuses(ds.assign(both=both), r"several level dimensions, \['height', 'level'\]", ["both"])


def test_dimensions_of_unknown_purpose_are_refused_and_can_be_settled():
    ds = era5().expand_dims(band=[1, 2]).copy()
    refuses(ds[["t2m"]], r"dimension 'band' of variable 't2m' is neither .*sample_dims=\['band'\]")
    ds = ds[["t2m"]]
    assert Schema.of(ds, level_dims=["band"]).labels == ("t2m 1", "t2m 2")
    schema = Schema.of(ds, sample_dims=["band"])
    assert to_tensor(ds, schema).shape == (2, 3, 1, 13, 24)
    same(to_xarray(to_tensor(ds, schema), schema, ds, packing=True), ds)


def test_options_that_name_no_variable_are_refused():
    refuses(era5(), r"masked names 'sst', which is not among the variables \['t'\]", ["t"], masked=["sst"])
    refuses(era5(), r"fills names 'q'", fills={"q": 1.0})
    refuses(era5(), r"mask of 't' must be 'static' or 'changing', got 'land'", masked={"t": "land"})
    refuses(era5(), r"fill value of 't' must be a finite number, got nan", masked=["t"], fills={"t": np.nan})
    integers = era5().assign(t=era5().t.astype("int16"))
    refuses(integers, r"'t' holds int16, which has no missing values", masked=["t"])


def test_data_sets_that_do_not_fit_the_schema_are_refused():
    ds = era5()
    schema = Schema.of(ds)
    for wrong, match in (
        (ds.drop_vars("t2m"), r"the data set lacks \['t2m'\] of the schema, it has \['t', 'z'\]"),
        (ds.isel(level=[0]), r"'t' lacks the levels \[850\]: there are \[500\]"),
        (ds.isel(level=0), r"'t' has dimensions .*without the schema's 'level'"),
        (ds.isel(latitude=slice(None, None, -1)), r"the points of the schema, .* in another order"),
        (ds.assign_coords(longitude=ds.longitude + 5), r"lies on the .*the schema on the"),
        (weatherbench2(), r"the data set lacks \['t', 't2m', 'z'\]"),
    ):
        with pytest.raises(ValueError, match=match):
            to_tensor(wrong, schema)


def test_tensors_that_do_not_fit_the_schema_are_refused():
    ds = era5()
    schema = Schema.of(ds)
    tensor = to_tensor(ds, schema)
    for wrong, options, match in (
        (tensor[:, 1:], {}, r"expected a tensor \[\.\.\., 4, 13, 24\] .* got \[3, 3, 13, 24\]"),
        (tensor[0, 0], {}, r"got \[13, 24\]"),
        (tensor[:2], {}, r"coordinate 'time' has 3 values along 'time', the tensor 2"),
        (tensor, {"mask": tensor[:1] > 0}, r"mask has shape \[1, 4, 13, 24\], the tensor \[3,"),
        (tensor + torch.arange(3).reshape(3, 1, 1, 1), {}, r"'z' is static .* differs between samples"),
    ):
        with pytest.raises(ValueError, match=match):
            to_xarray(wrong, schema, ds, **options)


def test_channels_that_do_not_exist_are_refused():
    schema = Schema.of(era5())
    assert schema.index("t", 850) == 1
    assert schema.channels(["z", "t"]) == [0, 1, 3]
    for arguments, match in (
        (("q",), r"no variable 'q'; there are \['t', 't2m', 'z'\]"),
        (("t", 700), r"'t' has no level 700; its levels are \[500, 850\]"),
        (("t",), r"'t' has no level None"),
        (("t2m", 500), r"'t2m' has no level 500; it has no levels"),
    ):
        with pytest.raises(ValueError, match=match):
            schema.index(*arguments)
    with pytest.raises(ValueError, match="no variable 'q'"):
        schema.select(["q"])


def test_attributes_that_json_cannot_hold_are_refused():
    ds = era5()
    ds.t.attrs["when"] = object()
    refuses(ds, r"attribute 'when' holds <object .*cannot be kept as JSON")
