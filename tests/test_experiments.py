"""The three experiments by their commands, at toy size."""

import json

import numpy as np
import pytest
import torch

for module, reason in {
    "lightning": "training stands on Lightning",
    "jsonargparse": "settings come by jsonargparse",
    "torch_harmonics": "shallow water is simulated with torch-harmonics",
    "matplotlib": "runs are drawn",
    "torchmetrics": "panoramas are scored with torchmetrics",
    "xarray": "trajectories are stored with xarray",
}.items():
    pytest.importorskip(module, reason=reason)

import geoattn as ga  # noqa: E402
from geoattn.__main__ import main  # noqa: E402
from geoattn.tasks.shallow_water import evaluation as scores  # noqa: E402
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
    for part in ("training", "validation", "test", "galewsky"):
        store = xarray.open_zarr(water / "data" / f"{part}.zarr", consolidated=False)
        assert store.latitude.attrs["units"] == "degrees_north"
        np.testing.assert_allclose(store.cell_area.sum(), 4 * np.pi)


def test_a_toy_forecaster_stays_stable_for_two_hundred_steps_and_keeps_its_mass(water):
    result = json.loads((water / "run" / "evaluation.json").read_text())
    assert result["long_steps"] == 200
    assert result["stable"]
    assert abs(result["long_drift"]["mass"]) < 1e-5
    assert result["test_model"]["relative_l2"]["depth"][0] == 0.0
    assert result["test_model"]["anomaly_correlation"]["vorticity"][0] == pytest.approx(1.0)
    for case in ("test", "galewsky"):
        spectrum = result[f"{case}_energy_spectrum"]
        assert len(spectrum["truth"]) == len(spectrum["model"])
        assert result[f"{case}_drift"].keys() == {"mass", "energy", "potential_enstrophy"}


def test_a_checkpoint_of_another_geometry_is_refused(water, tmp_path):
    settings = (water / "run" / "settings.yaml").read_text()
    (tmp_path / "model.pt").write_bytes((water / "run" / "model.pt").read_bytes())
    (tmp_path / "settings.yaml").write_text(settings.replace("geometry: sphere", "geometry: plane"))
    with pytest.raises(ValueError, match="holds another model: hoods is"):
        main(["evaluate", "shallow-water", "--output", str(tmp_path)])


def test_another_setting_in_the_same_folder_is_refused(water):
    command = ["train", "shallow-water", "--output", str(water / "run"), *toy_water(water)]
    with pytest.raises(SystemExit, match=r"other settings: .*'quadrature'|other settings: models"):
        main([*command, "--model.geometry", "plane"])
    with pytest.raises(SystemExit, match=r"data holds a run with other settings: seed is 0 there, 1 here"):
        main([*command, "--data.seed", "1"])


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


def test_commands_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"unknown task 'weather'; usage: geoattn train {shallow-water,"):
        main(["train", "weather"])
    with pytest.raises(SystemExit, match="there is no finished run in"):
        main(["evaluate", "depth", "--output", str(tmp_path)])
    with pytest.raises(ValueError, match="lead_steps=30 needs trajectories of 31 states"):
        shallow_water.Settings(lead_steps=30)


# the measures of forecasts, against what they must be ------------------------------------------

GRID = ga.grids.gaussian(12, 24)


def test_relative_error_and_correlation_of_known_fields():
    truth = torch.tensor(np.array(GRID.xyz[..., 2])).expand(2, 3, 1, 12, 24)
    zero = torch.zeros(1, 12, 24)
    torch.testing.assert_close(
        scores.relative_error(1.5 * truth, truth, GRID), torch.full((3, 1), 0.5, dtype=torch.float64)
    )
    other = torch.tensor(np.array(GRID.xyz[..., 0])).expand_as(truth)
    for forecast, expected in ((2 * truth, 1.0), (-truth, -1.0), (other, 0.0), (truth + other, 0.5**0.5)):
        correlation = scores.anomaly_correlation(forecast, truth, zero, GRID)
        torch.testing.assert_close(correlation, torch.full((3, 1), expected, dtype=torch.float64))


def test_the_energy_spectrum_sums_to_the_kinetic_energy_of_the_wind():
    from geoattn.tasks.shallow_water import ShallowWater, random_balanced_states

    solver = ShallowWater(GRID)
    state = random_balanced_states(solver, [3])
    spectrum = scores.energy_spectrum(solver, solver.to_fields(state))
    energy = 0.5 * GRID.integrate(solver.wind(state).square().sum(-3)) / (4 * np.pi)
    torch.testing.assert_close(spectrum.sum(-1), energy)


def test_drift_and_stability():
    from geoattn.tasks.shallow_water import ShallowWater, random_balanced_states

    solver = ShallowWater(GRID)
    fields = solver.to_fields(random_balanced_states(solver, [3]))
    forecast = torch.stack((fields, fields * torch.tensor([1.01, 1.0, 1.0])[:, None, None]), 1)
    assert float(scores.drift(solver, forecast)["mass"][0, 1]) == pytest.approx(0.01)
    mean, deviation = fields[0].mean((1, 2), keepdim=True), fields[0].std((1, 2), keepdim=True) + 1e-12
    assert scores.is_stable(forecast[:, :1], mean, deviation, GRID)
    assert not scores.is_stable(forecast + 5 * deviation, mean, deviation, GRID)
    assert not scores.is_stable(forecast * torch.nan, mean, deviation, GRID)


def test_a_step_keeps_the_area_means_and_never_raises_the_variance_above_that_of_the_training_states(
    tmp_path,
):
    from geoattn.tasks.shallow_water.learning import Stepper

    generator = torch.Generator().manual_seed(0)
    training = torch.randn(3, 4, 3, 12, 24, generator=generator)
    stepper = Stepper(torch.nn.Conv2d(3, 3, 1), training, GRID)
    torch.nn.init.constant_(stepper.network.weight, 2.0)
    start = training[:, 0]
    after = stepper(stepper(start))
    torch.testing.assert_close(GRID.integrate(after), GRID.integrate(start), atol=1e-4, rtol=0)
    area = torch.tensor(GRID.weights, dtype=torch.float32) / (4 * np.pi)

    def variance(x):
        return (x.square() * area).sum((-2, -1)) - (x * area).sum((-2, -1)).square()

    largest = variance(training).amax((0, 1))
    torch.testing.assert_close(variance(after), largest.expand(3, 3), rtol=1e-4, atol=0)
    strong = 3 * start  # what was larger before may stay, and does not grow
    torch.testing.assert_close(variance(stepper(strong)), variance(strong), rtol=1e-4, atol=0)
    zero = torch.zeros(1, 3, 12, 24)
    assert torch.isfinite(stepper(zero)).all()
