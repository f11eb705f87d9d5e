"""The demo: one experiment of shallow water, trained and evaluated in two geometries, side by side."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geoattn import backends
from geoattn._files import claim
from geoattn.tasks.geometry import geometry
from geoattn.tasks.settings import ModelSettings
from geoattn.tasks.shallow_water import CHANNELS, experiment
from geoattn.tasks.shallow_water.experiment import DataSettings, Settings
from geoattn.training import FitConfig

DEMO = Settings(
    DataSettings(mean_depth=8000.0),
    ModelSettings(radius=20.0),
    FitConfig(steps=240, validate_every=30, learning_rate=3e-3),
)
QUICK = Settings(
    DataSettings(nlat=16, nlon=32, training=4, validation=1, test=2, states=9, mean_depth=8000.0),
    ModelSettings(radius=30.0, dim=16, depth=2, num_heads=2),
    FitConfig(steps=40, validate_every=5, batch_size=4, learning_rate=3e-3),
    lead_steps=4,
)
#: what the two runs are called, and the geometry of each
RUNS: dict[str, Literal["sphere", "plane"]] = {"geodesic discs": "sphere", "planar windows": "plane"}
PERSISTENCE = "persistence"


def run_demo(
    output: Path, *, seed: int = 0, steps: int | None = None, quick: bool = False, fresh: bool = False
) -> int:
    """Run all stages into the folder ``output``; each continues where an earlier run stopped.

    Returns the exit status: 0 if both models beat persistence at every lead time, else 1.
    """
    started = time.perf_counter()
    preset = QUICK if quick else DEMO
    fit = dataclasses.replace(preset.fit, seed=seed)
    if steps is not None:
        fit = dataclasses.replace(fit, steps=steps, validate_every=math.gcd(steps, fit.validate_every))
    data = dataclasses.replace(preset.data, folder=str(output / "trajectories"), seed=seed)
    preset = dataclasses.replace(preset, data=data, fit=fit)
    if fresh:
        shutil.rmtree(output, ignore_errors=True)
    described = dataclasses.asdict(dataclasses.replace(preset, data=dataclasses.replace(data, folder="")))
    claim(output, described, "a demo", "Give another --output, or --fresh to start over")

    folders = {name: output / name.replace(" ", "-") for name in RUNS}
    results = {}
    for name, folder in folders.items():
        model = dataclasses.replace(preset.model, geometry=RUNS[name])
        settings = dataclasses.replace(preset, model=model)
        parameters = sum(p.numel() for p in experiment.network(settings).parameters())
        hood = geometry(model.geometry, data.grid, model.radius).hood
        print(f"\nTraining on {hood!r}: {parameters:,} parameters, {fit.steps} steps", flush=True)
        experiment.train(settings, folder)
        print("Forecasting and scoring what was never seen", flush=True)
        results[name] = experiment.evaluate(settings, folder)
    print(f"\nAttention ran on backend {backends.last()!r}; what could run here:\n{backends.status()!r}")
    better = _report(preset, results)
    experiment.compare(output / "forecast.png", preset, folders)
    print(f"\n{output / 'forecast.png'} shows it; forecasts, scores and checkpoints are beside it")
    print(f"The demo took {time.perf_counter() - started:.0f} s.")
    return 0 if better else 1


def _report(preset: Settings, results: dict[str, dict[str, Any]]) -> bool:
    """Print the scores; True if both models beat persistence at every lead time, in depth and vorticity."""
    rmse = {PERSISTENCE: results["geodesic discs"]["test_persistence"]["rmse"]}
    rmse |= {name: result["test_model"]["rmse"] for name, result in results.items()}
    print("\nArea-weighted root-mean-square error on unseen trajectories")
    print(f"{'lead':>6}  " + "  ".join(f"{name:>22}" for name in rmse))
    print(f"{'hours':>6}  " + "  ".join(f"{'depth m':>9}{'vort. 1e-6/s':>13}" for _ in rmse))
    step = max(1, preset.lead_steps // 8)
    for lead in range(step, preset.lead_steps + 1, step):
        row = "  ".join(
            f"{e['depth'][lead - 1]:9.1f}{1e6 * e['vorticity'][lead - 1]:13.2f}" for e in rmse.values()
        )
        print(f"{lead * preset.data.step_hours:6.0f}  {row}")
    better = all(
        bool(np.less(rmse[name][channel], rmse[PERSISTENCE][channel]).all())
        for name in RUNS
        for channel in ("depth", "vorticity")
    )
    verdict = "Both models beat" if better else "NOT every model beats"
    print(f"{verdict} persistence at every lead time, in depth and vorticity.")
    ratios = {c: np.divide(rmse["geodesic discs"][c], rmse["planar windows"][c]).mean() for c in CHANNELS}
    print(
        "Error of geodesic discs ÷ error of planar windows, mean over lead times: "
        + ", ".join(f"{channel} {ratio:.2f}" for channel, ratio in ratios.items())
    )
    jet = {PERSISTENCE: results["geodesic discs"]["galewsky_persistence"]}
    jet |= {name: result["galewsky_model"] for name, result in results.items()}
    print(
        f"On Galewsky's unstable jet, unlike anything in training, relative error of depth after "
        f"{preset.lead_steps * preset.data.step_hours:.0f} hours: "
        + ", ".join(f"{name} {scores['relative_l2']['depth'][-1]:.4f}" for name, scores in jet.items())
    )
    stable = [name for name, result in results.items() if result["stable"]]
    print(
        f"Forecasts of {preset.long_steps} steps that stay among possible states: "
        f"{' and '.join(stable) or 'none'}."
    )
    return better
