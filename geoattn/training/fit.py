"""One run: a module, its data, a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from geoattn._files import claim
from geoattn.models import ModelConfig
from geoattn.neighborhoods.base import Neighborhood
from geoattn.nn import set_grad_checkpointing
from geoattn.plot import training_curves
from geoattn.training.averages import Averages
from geoattn.training.callbacks import FiniteLoss, LearningRates, Record, Reseed, TrainingBar, tell
from geoattn.training.checkpoints import CheckedIO, Checkpoints, Patience, check
from geoattn.training.config import FitConfig
from geoattn.training.loggers import loggers
from geoattn.training.processes import first, is_first, trainer_options

#: settings that say where and how a run is computed, not what comes out: a run goes on under others
_NOT_OF_THE_RUN = ("domain", "nodes", "strategy", "grad_checkpointing", "logger")


def fit(
    module: lightning.LightningModule,
    data: lightning.LightningDataModule,
    folder: Path,
    config: FitConfig,
    settings: dict[str, Any] | None = None,
    callbacks: list[Callback] | None = None,
) -> list[dict[str, float]]:
    """Train ``module`` in place, and return the lines of its metrics, one for each round.

    The folder receives ``config.json``, ``metrics.csv``, ``metrics.json``, ``checkpoints/``, a folder for
    each logger and ``learning.png``. A run that was stopped, in whatever way, is continued from the end of
    its last round by the same call, and ends with the same bits as one that was not; if the newest checkpoint
    is damaged, a warning says so, and the run goes on from the one before. A finished run is loaded. Build
    the module after ``lightning.seed_everything(config.seed)`` for weights that repeat.

    Parameters
    ----------
    module
        Logs ``val_loss`` in its validation step. Its optimiser is its own; :func:`optimizers` makes the one
        that ``config`` names.
    data
        For instance :class:`Data`. Batches of another data module must follow from the epoch's number for
        a resumed run to repeat.
    settings
        JSON types to be kept in ``config.json`` beside ``config`` and the models' configurations.
    callbacks
        More of Lightning's callbacks.

    Raises
    ------
    ValueError
        If the folder holds a run with other settings, such as another grid, geometry or model; if a sample is
        not finite, with its name; if the best or last weights of a finished run are damaged; if there is no
        block whose inputs alone could be kept, and ``config.grad_checkpointing``.
    ModuleNotFoundError
        If a logger's package is not installed.
    FloatingPointError
        If the loss is not finite.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import lightning
    >>> class Task(lightning.LightningModule):
    ...     def __init__(self, config):
    ...         super().__init__()
    ...         self.config, self.model = config, torch.nn.Linear(3, 3)
    ...
    ...     def training_step(self, batch, _):
    ...         return (self.model(batch[0]) - batch[0]).square().mean()
    ...
    ...     def validation_step(self, batch, _):
    ...         self.log("val_loss", self.training_step(batch, _))
    ...
    ...     def configure_optimizers(self):
    ...         return ga.training.optimizers(self, self.config)
    >>> data = torch.utils.data.TensorDataset(torch.randn(16, 3))
    >>> config = ga.training.FitConfig(steps=2, validate_every=1, accelerator="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = ga.training.fit(Task(config), ga.training.Data(data, data, config), Path(folder), config)
    >>> [row["step"] for row in rows]
    [1.0, 2.0]
    """
    _quiet()
    if config.domain > 1 and not any(hasattr(part, "shards") for part in module.modules()):
        raise ValueError(
            f"domain={config.domain} divides fields among processes, and {type(module).__name__} works on "
            "whole ones: leave domain=1, so that processes share batches"
        )
    options = trainer_options(config)
    kept = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_OF_THE_RUN}
    described = {"fit": kept, "models": _models(module), "module": _described(module), **(settings or {})}
    first(lambda: claim(folder, described))
    status = folder / "metrics.json"
    if status.exists() and (kept := json.loads(status.read_text())).get("weights"):
        _restore(module, folder / kept["weights"])
        rounds = [{name: float(value) for name, value in row.items()} for row in kept["rounds"]]
        if is_first():
            steps = f" after {rounds[-1]['step']:.0f} steps" if rounds else ""
            tell(f"{folder} holds this run, finished{steps}: loaded, not trained")
        return rounds

    if config.grad_checkpointing:
        set_grad_checkpointing(module)
    listening = loggers(config.logger, folder) if is_first() else []
    for logger in listening:
        logger.log_hyperparams(described)
    often = max(1, config.round_length // 10)
    record = Record(folder)
    best = config.patience is not None
    checkpoints = Checkpoints(folder / "checkpoints", best)
    trainer = lightning.Trainer(
        max_steps=config.steps,
        accelerator=config.accelerator,
        **options,
        precision=_precision(config),  # type: ignore[arg-type]
        gradient_clip_val=config.gradient_norm,
        accumulate_grad_batches=config.accumulate,
        use_distributed_sampler=False,
        logger=listening or False,
        log_every_n_steps=often,
        callbacks=[
            Reseed(config.seed),
            FiniteLoss(),
            *([Averages(config.ema)] if config.ema is not None else []),
            record,
            *([LearningRates(often)] if listening else []),
            *([Patience(config.patience)] if config.patience is not None else []),
            checkpoints,
            TrainingBar(record),
            *(callbacks or []),
        ],
        plugins=[CheckedIO()],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=checkpoints.newest(), weights_only=True)
    if best:
        _restore(module, checkpoints.best)
    if trainer.is_global_zero:
        training_curves(folder / "learning.png", record.rows)
        record.write(weights=f"checkpoints/{'best' if best else 'last'}.ckpt")
        checkpoints.before.unlink(missing_ok=True)  # there is nothing left to fall back for
    return record.rows


def _models(module: torch.nn.Module) -> list[dict[str, str]]:
    configs = [getattr(part, "config", None) for part in module.modules()]
    known = (c for c in configs if isinstance(c, ModelConfig))
    return [{"kind": c.kind, "summary": repr(c), "digest": c.digest} for c in known]


def _described(module: torch.nn.Module) -> dict[str, Any]:
    """What a module computes, as far as it shows: its parameters, and the neighborhoods in it."""
    shapes = json.dumps({name: list(x.shape) for name, x in module.state_dict().items()})
    held = (value for part in module.modules() for value in vars(part).values())
    hoods = {hood.digest: repr(hood) for hood in held if isinstance(hood, Neighborhood)}
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "shapes": hashlib.sha256(shapes.encode()).hexdigest()[:16],
        "neighborhoods": [f"{words} ({digest[:12]})" for digest, words in hoods.items()],
    }


def _restore(module: torch.nn.Module, path: Path) -> None:
    check(path)
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])


def _precision(config: FitConfig) -> str:
    if config.precision != "auto":
        return config.precision
    on_gpu = config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def _quiet() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips, not its warnings
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec", module="lightning")  # its own affair
    warnings.filterwarnings("ignore", message=".*does not have many workers", module="lightning")
    warnings.filterwarnings("ignore", message=".*exists and is not empty", module="lightning")
