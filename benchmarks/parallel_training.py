"""Shallow-water training on 1, 2 × 2 and 4 × 1 processes: the same losses, step by step.

    python benchmarks/parallel_training.py

The experiment of ``geoattn train shallow-water`` at a small size, 50 steps from one seed: by one process, by
four of which two share each field and two each batch, and by four that share each field. Prints the largest
difference of a training loss, and of a validation loss, beside those of one process, and writes
``benchmarks/results/parallel_training.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from about import about

from geoattn._files import write_text

RESULTS = Path(__file__).parent / "results" / "parallel_training.json"
#: name → processes, and how many of them divide each field
RUNS = {"1": (1, 1), "2 × 2": (4, 2), "4 × 1": (4, 4)}
SETTINGS = {
    "data.nlat": 24,
    "data.nlon": 48,
    "data.training": 8,
    "data.validation": 2,
    "data.test": 1,
    "data.states": 13,
    "lead_steps": 6,
    "model.dim": 24,
    "model.depth": 2,
    "model.num_heads": 4,
    "model.radius": 25.0,
    "model.patch": 2,
    "fit.validate_every": 1,
    "fit.batch_size": 4,
    "fit.learning_rate": 4e-3,
    "fit.accelerator": "cpu",
}


def train(folder: Path, name: str, steps: int) -> list[dict[str, float]]:
    """The lines of the metrics of a run by as many processes."""
    processes, domain = RUNS[name]
    output = folder / name.replace(" ", "")
    given = SETTINGS | {"data.folder": folder / "data", "fit.steps": steps, "fit.domain": domain}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    command += ["-m", "geoattn", "train", "shallow-water", "--output", str(output)]
    for key, value in given.items():
        command += [f"--{key}", str(value)]
    run = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    rows: list[dict[str, float]] = json.loads((output / "metrics.json").read_text())["rounds"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    command = f"python benchmarks/parallel_training.py --steps {options.steps}"
    result = about(command, "lightning") | {"settings": SETTINGS, "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in RUNS:
            rows = train(Path(folder), name, options.steps)
            run = {key: [row[key] for row in rows] for key in ("train_loss", "val_loss")}
            result["runs"][name] = run
            for key, losses in list(run.items()):
                true = np.array(result["runs"]["1"][key])
                run[f"{key}_differs"] = float(np.abs(np.array(losses) / true - 1).max())
            print(
                f"{name:>6} processes: training loss {run['train_loss'][0]:.6f} to "
                f"{run['train_loss'][-1]:.6f}, "
                f"differs by {run['train_loss_differs']:.1e}; validation loss {run['val_loss'][-1]:.6f}, "
                f"differs by {run['val_loss_differs']:.1e}",
                flush=True,
            )
    write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", RESULTS)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
