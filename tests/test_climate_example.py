"""One script trains and forecasts on stores in the conventions of five sources."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the example reads stores")
pytest.importorskip("zarr", reason="the example's stores are zarr")
for module in ("lightning", "matplotlib"):
    pytest.importorskip(module, reason="the example trains with Lightning, which draws its curve")

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


stores, climate = load("climate_stores"), load("climate")

GRIDS = {
    "era5": ga.grids.equiangular(19, 36),
    "weatherbench2": ga.grids.equiangular(16, 32, poles=False, south_first=True),
    "cmip": ga.grids.equiangular(18, 36, poles=False, south_first=True, lon_start=-175),
    "reduced-gaussian": ga.grids.reduced_gaussian("O8"),
    "healpix": ga.grids.healpix(8),
}


@pytest.mark.parametrize("name", stores.SOURCES)
def test_the_same_script_trains_and_forecasts_on_every_convention(name, tmp_path, capsys):
    path = stores.write(name, tmp_path, times=64)
    arguments = [str(path), "--output", str(tmp_path / "run"), "--training-steps", "40"]
    status = climate.main([*arguments, "--learning-rate", "1e-2", "--forecast-steps", "3", "--members", "2"])
    assert status == 0  # the forecast is better than persistence
    printed = capsys.readouterr().out
    assert repr(GRIDS[name]) in printed

    standard = {"lat": "latitude", "lon": "longitude", "plev": "level", "isobaricInhPa": "level"}
    with xr.open_zarr(path, chunks=None, consolidated=False) as truth:
        truth = truth.rename({n: new for n, new in standard.items() if n in truth.dims})
        options = {"chunks": None, "consolidated": False, "decode_timedelta": True}
        with xr.open_zarr(tmp_path / "run" / "forecast.zarr", **options) as out:
            assert ga.grids.from_xarray(out) == ga.grids.from_xarray(truth) == GRIDS[name]
            for variable in out.data_vars:
                if "time" not in out[variable].dims:  # bounds and the like
                    xr.testing.assert_identical(out[variable], truth[variable])
                    continue
                lead = ("time", "realization", "prediction_timedelta")
                assert out[variable].dims == (*lead, *truth[variable].dims[1:])
                assert out[variable].attrs == truth[variable].attrs
                gaps = np.isnan(truth[variable].values[0])
                assert (np.isnan(out[variable].values) == gaps).all()
            if name == "cmip":
                assert {"lat_bnds", "lon_bnds"} <= set(out.variables)
