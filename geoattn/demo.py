"""The main job, end to end: simulate, train, forecast, score, draw."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import geoattn as ga
from geoattn import backends
from geoattn._files import claim, write_json
from geoattn.models import Transformer, TransformerConfig
from geoattn.plot import forecast_picture
from geoattn.tasks.shallow_water import CHANNELS, generate_trajectories
from geoattn.tasks.shallow_water.evaluation import persistence, rollout, root_mean_square_error
from geoattn.tasks.shallow_water.learning import Stepper, train
from geoattn.tasks.shallow_water.store import read_fields, to_dataset, write_zarr
from geoattn.training import FitConfig

SPHERE, PLANE, PERSISTENCE = "geodesic discs", "planar windows", "persistence"


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Everything that decides the demo's result."""

    nlat: int = 32
    nlon: int = 64
    training: int = 24
    validation: int = 2
    test: int = 6
    saved_steps: int = 24
    step_hours: float = 3.0
    lead_steps: int = 16
    radius: float = 20.0
    window: int = 9
    dim: int = 64
    depth: int = 4
    heads: int = 4
    features: int = 4
    steps: int = 240
    batch_size: int = 8
    learning_rate: float = 3e-3
    seed: int = 0


QUICK = DemoConfig(
    nlat=16,
    nlon=32,
    training=4,
    validation=1,
    test=2,
    saved_steps=8,
    lead_steps=4,
    radius=30.0,
    window=5,
    dim=16,
    depth=2,
    heads=2,
    features=4,
    steps=40,
    batch_size=4,
)


def run_demo(
    output: Path, *, seed: int = 0, steps: int | None = None, quick: bool = False, fresh: bool = False
) -> int:
    """Run all stages into the folder ``output``; each continues where an earlier run stopped.

    Returns the exit status: 0 if both models beat persistence at every lead time, else 1.
    """
    started = time.perf_counter()
    config = dataclasses.replace(QUICK if quick else DemoConfig(), seed=seed)
    config = config if steps is None else dataclasses.replace(config, steps=steps)
    if fresh:
        shutil.rmtree(output, ignore_errors=True)
    try:
        claim(output, dataclasses.asdict(config), "a demo", "Give another --output, or --fresh to start over")
    except ValueError as error:
        raise SystemExit(str(error)) from None

    grid = ga.grids.gaussian(config.nlat, config.nlon)
    training, validation, test = _trajectories(output, config, grid)

    plane = ga.grids.cartesian(grid.shape)
    hoods = {SPHERE: ga.geodesic(grid, radius=config.radius), PLANE: ga.window(plane, config.window)}
    start, truth = test[:, 0], test[:, : config.lead_steps + 1]
    forecasts: dict[str, Tensor] = {PERSISTENCE: persistence(start, config.lead_steps)}
    for name, hood in hoods.items():
        torch.manual_seed(config.seed)
        network = Transformer(
            TransformerConfig(
                hood.query_grid,
                (hood,),
                in_channels=len(CHANNELS),
                out_channels=len(CHANNELS),
                dim=config.dim,
                depth=config.depth,
                num_heads=config.heads,
                features=config.features,
                residual=False,
            )
        )
        parameters = sum(p.numel() for p in network.parameters())
        print(f"\nTraining on {hood!r}: {parameters:,} parameters, {config.steps} steps")
        stepper = train(
            Stepper(network, training, grid),
            grid,
            training,
            validation,
            output / name.replace(" ", "-"),
            FitConfig(
                steps=config.steps,
                validate_every=config.steps // 8 if config.steps % 8 == 0 else config.steps,
                batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                seed=config.seed,
            ),
        )
        forecasts[name] = rollout(stepper, start, config.lead_steps)
    print(f"\nAttention ran on backend {backends.last()!r}; what could run here:\n{backends.status()!r}")

    errors = {name: root_mean_square_error(f, truth, grid) for name, f in forecasts.items()}
    hours = np.arange(config.lead_steps + 1) * config.step_hours
    better = _report(output, hours, errors)
    attributes = {
        "title": "shallow-water forecast by a transformer over geodesic discs",
        "source": f"geoattn {ga.__version__}, geoattn demo",
        "grid": repr(grid),
    }
    forecast = to_dataset(forecasts[SPHERE], grid, config.step_hours, attributes)
    write_zarr(forecast, output / "forecast.zarr")
    _draw(output, grid, hours, truth, forecasts, errors)
    print(f"\nForecast, scores, pictures and checkpoints are in {output}/")
    print(f"The demo took {time.perf_counter() - started:.0f} s.")
    return 0 if better else 1


def _trajectories(output: Path, config: DemoConfig, grid: ga.grids.Gaussian) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test trajectories: simulated once, then read from the folder."""
    path = output / "trajectories.zarr"
    count = config.training + config.validation + config.test
    if path.exists():
        print(f"Reading {count} trajectories from {path}")
    else:
        print(
            f"Simulating {count} trajectories of {config.saved_steps * config.step_hours:g} hours "
            f"on a {grid!r} …"
        )
        began = time.perf_counter()
        simulated = generate_trajectories(
            grid, count, config.saved_steps, config.step_hours, config.seed, dtype=torch.float32
        )
        attributes = {"title": "shallow-water trajectories", "source": f"geoattn {ga.__version__}"}
        write_zarr(to_dataset(simulated, grid, config.step_hours, attributes), path)
        print(f"… in {time.perf_counter() - began:.0f} s")
    fields = read_fields(path)
    first_test = config.training + config.validation
    return fields[: config.training], fields[config.training : first_test], fields[first_test:]


def _report(output: Path, hours: np.ndarray, errors: dict[str, Tensor]) -> bool:
    """Print and store the scores; True if both models beat persistence at every lead time."""
    scores = {
        "lead_hours": hours.tolist(),
        "rmse": {
            name: {channel: error[:, c].tolist() for c, channel in enumerate(CHANNELS)}
            for name, error in errors.items()
        },
    }
    write_json(scores, output / "scores.json")
    print("\nArea-weighted root-mean-square error on unseen trajectories")
    print(f"{'lead':>6}  " + "  ".join(f"{name:>22}" for name in errors))
    print(f"{'hours':>6}  " + "  ".join(f"{'depth m':>9}{'vort. 1e-6/s':>13}" for _ in errors))
    step = max(1, (len(hours) - 1) // 8)
    for lead in range(step, len(hours), step):
        row = "  ".join(f"{e[lead, 0]:9.1f}{1e6 * e[lead, 1]:13.2f}" for e in errors.values())
        print(f"{hours[lead]:6.0f}  {row}")
    better = all(bool((errors[name][1:, :2] < errors[PERSISTENCE][1:, :2]).all()) for name in (SPHERE, PLANE))
    verdict = "Both models beat" if better else "NOT every model beats"
    print(f"{verdict} persistence at every lead time, in depth and vorticity.")
    ratio = errors[SPHERE][1:] / errors[PLANE][1:]
    print(
        "Error of geodesic discs ÷ error of planar windows, mean over lead times: "
        + ", ".join(f"{channel} {ratio[:, c].mean():.2f}" for c, channel in enumerate(CHANNELS))
    )
    return better


def _draw(
    output: Path,
    grid: ga.grids.Gaussian,
    hours: np.ndarray,
    truth: Tensor,
    forecasts: dict[str, Tensor],
    errors: dict[str, Tensor],
) -> None:
    lead = len(hours) // 2
    forecast_picture(
        output / "forecast.png",
        grid,
        hours,
        lead,
        truth[0, lead, 0].numpy(),
        {name: f[0, lead, 0].numpy() for name, f in forecasts.items()},
        {name: error[:, 0].numpy() for name, error in errors.items()},
        "fluid depth (m)",
    )
