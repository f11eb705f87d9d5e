"""The three experiments by their commands, at toy size."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

for module, reason in {
    "lightning": "training stands on Lightning",
    "jsonargparse": "settings come by jsonargparse",
    "matplotlib": "runs are drawn",
    "torchmetrics": "panoramas are scored with torchmetrics",
    "xarray": "trajectories are stored with xarray",
}.items():
    pytest.importorskip(module, reason=reason)

import geoattn as ga  # noqa: E402
from geoattn.__main__ import main  # noqa: E402
from geoattn.tasks.shallow_water import experiment as shallow_water  # noqa: E402

FIT = ["--fit.steps", "12", "--fit.validate_every", "6", "--fit.batch_size", "4", "--fit.accelerator", "cpu"]
MODEL = ["--model.dim", "8", "--model.depth", "1", "--model.num_heads", "1", "--model.radius", "40"]
ROOMS = ["--data.nlat", "8", "--data.nlon", "16", "--data.training", "12", "--data.validation", "4"]
PARTS = ["config.json", "metrics.csv", "metrics.json", "model.pt", "settings.yaml", "evaluation.json"]


def toy_water(folder):
    return [
        *("--data.folder", str(folder / "data"), "--data.nlat", "12", "--data.nlon", "24"),
        *("--data.training", "4", "--data.validation", "1", "--data.test", "2", "--data.states", "9"),
        *("--lead_steps", "6", *MODEL, "--model.dim", "16"),
        *(*FIT, "--fit.steps", "60", "--fit.validate_every", "30", "--fit.learning_rate", "3e-3"),
    ]


@pytest.fixture(scope="module")
def water(tmp_path_factory):
    folder = tmp_path_factory.mktemp("water")
    main(["train", "shallow-water", "--output", str(folder / "run"), *toy_water(folder)])
    main(["evaluate", "shallow-water", "--output", str(folder / "run")])
    return folder


def test_shallow_water_leaves_its_folder_and_its_data_with_coordinates(water):
    import xarray

    for name in (*PARTS, "learning.png", "forecast.png", "errors.png", "spectrum.png"):
        assert (water / "run" / name).stat().st_size > 0, name
    for part, states in {"training": 36, "validation": 9, "test": 18, "galewsky": 9}.items():
        store = xarray.open_zarr(water / "data" / f"{part}.zarr", consolidated=False)
        assert store.latitude.attrs["units"] == "degrees_north"
        assert store.sizes["time"] == states
        assert ga.grids.from_xarray(store) == ga.grids.gaussian(12, 24)


def test_a_toy_forecaster_stays_stable_for_two_hundred_steps_and_keeps_its_mass(water):
    result = json.loads((water / "run" / "evaluation.json").read_text())
    assert result["long_steps"] == 200
    assert result["stable"]
    assert abs(result["long_drift"]["mass"]) < 1e-5
    assert result["lead_hours"] == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    assert result["test_model"]["relative_l2"]["depth"][0] < result["test_model"]["relative_l2"]["depth"][5]
    assert result["test_model"]["anomaly_correlation"]["vorticity"][0] > 0.9
    for case in ("test", "galewsky"):
        spectrum = result[f"{case}_energy_spectrum"]
        assert len(spectrum["truth"]) == len(spectrum["model"])
        assert result[f"{case}_drift"].keys() == {"mass", "energy", "potential_enstrophy"}


def test_models_see_the_ground_and_predict_the_flow_over_it(tmp_path):
    import xarray

    command = [*toy_water(tmp_path), "--data.orography", "mountain", "--fit.steps", "2"]
    command = ["shallow-water", "--output", str(tmp_path / "run"), *command, "--fit.validate_every", "2"]
    main(["train", *command])
    main(["evaluate", *command[:3]])
    store = xarray.open_zarr(tmp_path / "data" / "test.zarr", consolidated=False)
    assert store.orography.dims == ("latitude", "longitude")
    assert 300 < float(store.orography.max()) < 2000  # of its 2000 m, what the truncation leaves
    jet = xarray.open_zarr(tmp_path / "data" / "galewsky.zarr", consolidated=False)
    assert not bool(jet.orography.any())
    assert json.loads((tmp_path / "data" / "config.json").read_text())["orography"] == "mountain"
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["test_model"]["rmse"].keys() == {"depth", "vorticity", "divergence"}
    assert abs(result["test_drift"]["mass"][0]) < 1e-5


def refused(command, capsys):
    """What the command line says instead of running it."""
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"geoattn {command[0]}: ")
    assert "Traceback" not in said
    return said


def test_a_checkpoint_of_another_geometry_is_refused(water, tmp_path, capsys):
    settings = (water / "run" / "settings.yaml").read_text()
    (tmp_path / "model.pt").write_bytes((water / "run" / "model.pt").read_bytes())
    (tmp_path / "settings.yaml").write_text(settings.replace("geometry: sphere", "geometry: plane"))
    said = refused(["evaluate", "shallow-water", "--output", str(tmp_path)], capsys)
    assert "holds another model: hoods is" in said


def test_another_setting_in_the_same_folder_is_refused(water, capsys):
    command = ["train", "shallow-water", "--output", str(water / "run"), *toy_water(water)]
    said = refused([*command, "--model.geometry", "plane"], capsys)
    assert re.search(r"other settings: .*'quadrature'|other settings: models", said)
    said = refused([*command, "--data.seed", "1"], capsys)
    assert "data holds a run with other settings: seed is 0 there, 1 here" in said


def test_data_in_another_layout_is_refused(tmp_path):
    data = shallow_water.DataSettings(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(data) | {"folder": None}))
    with pytest.raises(ValueError, match="layout is missing there, 'trajectories along time' here"):
        shallow_water.stores(data)


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_panoramas_by_a_file_and_flags(task, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("model:\n  geometry: sphere-unweighted\n  stages: 2\nangles: [0.0, 45.0]\n")
    folder = tmp_path / "run"
    toy = [*ROOMS, "--data.test", "4", *MODEL, *FIT]
    main(["train", task, "--output", str(folder), "--config", str(file), *toy])
    main(["evaluate", task, "--output", str(folder)])
    for name in (*PARTS, "learning.png", "panoramas.png", "mollweide.png", "robustness.png"):
        assert (folder / name).stat().st_size > 0, name
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["robustness"]["model"]["angle"] == [0.0, 45.0]
    trivial = {"segmentation": {"class prior", "class prior by row"}, "depth": {"row mean"}}[task]
    assert set(result["test"]) == {"model"} | trivial
    assert "stages: 2" in (folder / "settings.yaml").read_text()


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_the_published_panoramas_go_through_the_same_commands(task, tmp_path):
    pytest.importorskip("PIL.Image", reason="panoramas are read with Pillow")
    from test_stanford import AREAS, LABELS, write_panorama

    root, folder = tmp_path / "2d3ds", tmp_path / "run"
    for area in AREAS:
        for room in range(10):  # one in ten is for validation, by name
            write_panorama(root, area, f"office_{room}")
    (root / "semantic_labels.json").write_text(json.dumps(LABELS))
    toy = ["--data.root", str(root), "--data.fold", "2", *ROOMS[:4], *MODEL, *FIT, "--angles", "[0.0, 90.0]"]
    main(["train", task, "--output", str(folder), *toy])
    main(["evaluate", task, "--output", str(folder)])
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["robustness"]["model"]["angle"] == [0.0, 90.0]
    assert all(np.isfinite(value) for scores in result["test"].values() for value in scores.values())
    assert (folder / "robustness.png").stat().st_size > 0


def test_commands_that_cannot_be_are_refused(tmp_path, capsys):
    said = refused(["train", "weather"], capsys)
    assert "unknown task 'weather'; usage: geoattn train {forecast,shallow-water," in said
    assert "there is no finished run in" in refused(["evaluate", "depth", "--output", str(tmp_path)], capsys)
    with pytest.raises(ValueError, match="lead_steps=30 needs trajectories of 31 states"):
        shallow_water.Settings(lead_steps=30)


# what shallow water has of its own -----------------------------------------------------------------

GRID = ga.grids.gaussian(12, 24)


def test_windows_are_successive_states_of_one_trajectory(water):
    from geoattn.xarray import Schema

    path = water / "data" / "training.zarr"
    store = shallow_water.load(path)
    windows = shallow_water.windows(path, Schema.of(store, shallow_water.CHANNELS), steps=2)
    assert len(windows) == 4 * (9 - 2)
    fields = torch.from_numpy(store.depth.values).reshape(4, 9, 12, 24)
    sample = windows[7]  # the first of the second trajectory
    torch.testing.assert_close(sample["input"][0, 0], fields[1, 0])
    torch.testing.assert_close(sample["target"][:, 0], fields[1, 1:3])


@pytest.mark.filterwarnings("error:.*leaves out")
def test_scales_are_of_changes_within_trajectories_without_a_word(water):
    from geoattn.xarray import Schema

    path = water / "data" / "training.zarr"
    store = shallow_water.load(path)
    found = shallow_water.scales(path, Schema.of(store, shallow_water.CHANNELS)).tendencies
    changes = np.diff(store.depth.values.reshape(4, 9, 12, 24).astype(float), axis=1)
    mean = GRID.mean(changes).mean()
    assert found.mean[0] == pytest.approx(mean, abs=1e-3)
    assert found.std[0] == pytest.approx(np.sqrt(GRID.mean((changes - mean) ** 2).mean()), rel=1e-5)


def test_the_first_states_are_those_of_the_solver(water):
    from geoattn.tasks.shallow_water import generate_trajectories

    data = shallow_water.DataSettings(nlat=12, nlon=24)
    expected = generate_trajectories(data.grid, 1, 8, 3.0, 0, first=5, mean_depth=data.mean_depth)
    store = shallow_water.load(water / "data" / "test.zarr")  # after 4 for training and 1 for validation
    for channel, name in enumerate(shallow_water.CHANNELS):
        found = torch.from_numpy(store[name].values[:9])
        scale = expected[0, :, channel].std()
        torch.testing.assert_close(found / scale, expected[0, :, channel] / scale, rtol=1e-5, atol=1e-3)
    assert str(store.time.values[0]).startswith("2000-01-07T06")  # 5 trajectories of 9 + 1 intervals of 3 h


def test_the_energy_spectrum_sums_to_the_kinetic_energy_of_the_wind():
    from geoattn.tasks.shallow_water import ShallowWater, random_balanced_states

    solver = ShallowWater(GRID)
    state = random_balanced_states(solver, [3])
    energy = 0.5 * GRID.mean(solver.wind(state).square().sum(-3))
    torch.testing.assert_close(solver.energy_spectrum(state).sum(-1), energy)


def test_states_that_no_flow_reaches_are_told(water):
    from geoattn.xarray import Forecaster, to_tensor

    training = Forecaster.load(water / "run" / "model.pt").statistics
    store = shallow_water.load(water / "data" / "training.zarr")
    fields = to_tensor(store.isel(time=slice(0, 2)), training.schema)
    possible = lambda fields: shallow_water.is_possible(fields, training)  # noqa: E731
    assert possible(fields)
    deviation = torch.tensor(training.states.std)[:, None, None]
    for channel in range(3):
        far = fields.double()
        far[1, channel] += 3 * deviation[channel]
        assert not possible(far)
        far[1, channel] = torch.nan
        assert not possible(far)
