"""Training a forecaster on windows of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geoattn.parallel.parallelize import parallelize
from geoattn.training.config import FitConfig
from geoattn.training.data import Data
from geoattn.training.fit import fit
from geoattn.training.optimisers import optimizers
from geoattn.training.processes import start
from geoattn.xarray.forecasts.forecaster import Forecaster
from geoattn.xarray.stores.windows import Windows

Sample = dict[str, Tensor]


class Forecasting(lightning.LightningModule):
    """Learns to forecast as many steps as its samples have targets, on :meth:`ga.xarray.Forecaster.loss`.

    Parameters
    ----------
    forecaster
        Trained in place.
    config
        Of the run.
    pushforward
        With several steps: send gradients through the last one only, the steps before it being there to
        meet the errors of forecasts (Brandstetter et al., 2202.03376). Otherwise all steps are unrolled,
        all count, and gradients go through all.
    """

    def __init__(self, forecaster: Forecaster, config: FitConfig, pushforward: bool = False) -> None:
        super().__init__()
        self.forecaster = forecaster
        self.settings, self.pushforward = config, pushforward

    def loss(self, batch: Sample) -> Tensor:
        """Of a batch of :class:`ga.xarray.Windows` with one input step."""
        fields, targets, shown = batch["input"][:, 0], batch["target"], batch.get("target_mask")
        mask = batch["input_mask"][:, 0] if "input_mask" in batch else None
        if self.pushforward:
            with torch.no_grad():
                for stepped in self.forecaster.rollout(fields, targets.shape[1] - 1, mask):
                    fields = stepped
            targets, shown = targets[:, -1:], None if shown is None else shown[:, -1:]
        return self.forecaster.loss(fields, targets, mask, shown)

    def training_step(self, batch: Sample, _: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch["input"]))
        return loss

    def validation_step(self, batch: Sample, _: int) -> None:
        size = len(batch["input"])
        self.log("val_loss", self.loss(batch), prog_bar=True, batch_size=size, sync_dist=True)

    def configure_optimizers(self) -> Any:
        return optimizers(self, self.settings)


def train_forecaster(
    forecaster: Forecaster,
    training: Dataset[Sample],
    validation: Dataset[Sample],
    folder: Path,
    config: FitConfig,
    *,
    pushforward: bool = False,
    settings: dict[str, Any] | None = None,
) -> Forecaster:
    """Train ``forecaster`` in place and return it, on the CPU and in evaluation mode.

    :func:`geoattn.training.fit` says what the folder receives, and how a run that was stopped goes on.

    Parameters
    ----------
    training, validation
        Windows of one input step and at least one target step, in physical units.
    pushforward
        How several target steps are learned from: see :class:`Forecasting`.
    settings
        JSON types to be kept in ``config.json``: a folder holds one run, of one set of them.

    Raises
    ------
    ValueError
        If the windows are normalised, have another schema, or other numbers of steps.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> grid = ga.grids.gaussian(4, 8)
    >>> times = np.arange("2001-01-01", "2001-01-11", dtype="datetime64[D]").astype("datetime64[ns]")
    >>> coords = ga.xarray.coordinates(grid).assign_coords(time=times)
    >>> ds = coords.assign(t=(("time", "latitude", "longitude"), np.random.default_rng(0).random((10, 4, 8))))
    >>> schema = ga.xarray.Schema.of(ds)
    >>> config = ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=60), 1, 1, dim=8, depth=1)
    >>> stats = ga.xarray.statistics(ds, schema)
    >>> forecaster = ga.xarray.Forecaster(config.build(), stats, np.timedelta64(1, "D"))
    >>> run = ga.training.FitConfig(steps=1, batch_size=4, accelerator="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds.to_netcdf(path := f"{folder}/store.nc")
    ...     windows = ga.xarray.Windows(path, schema)
    ...     trained = ga.training.train_forecaster(forecaster, windows, windows, Path(folder) / "run", run)
    >>> trained is forecaster
    True
    """
    for name, windows in (("training", training), ("validation", validation)):
        if isinstance(windows, Windows):
            _check(name, windows, forecaster)
        elif config.domain > 1:
            raise TypeError(
                "domain divides fields among processes, each of which reads its points of ga.xarray.Windows, "
                f"got {type(windows).__name__}: leave domain=1, so that processes share batches"
            )
    mesh = start(config)
    if mesh is not None and config.domain > 1:
        assert isinstance(training, Windows)
        assert isinstance(validation, Windows)
        shards: Any = parallelize(forecaster, mesh["domain"]).shards
        training, validation = training.part(shards.tokens()), validation.part(shards.tokens())
    described = {
        "forecaster": forecaster.options | {"data": repr(forecaster.statistics)},
        "target_steps": getattr(training, "target_steps", None),
        "pushforward": pushforward,
        **(settings or {}),
    }
    module = Forecasting(forecaster, config, pushforward)
    fit(module, Data(training, validation, config), folder, config, described)
    return forecaster.cpu().eval()


def _check(name: str, windows: Windows, forecaster: Forecaster) -> None:
    if windows.schema != forecaster.schema:
        raise ValueError(
            f"the windows for {name} are of the {windows.schema!r}, the forecaster's statistics of the "
            f"{forecaster.schema!r}"
        )
    length = windows.length
    if length is not None and length != forecaster.step:
        seconds = length / np.timedelta64(1, "s")
        raise ValueError(
            f"the windows for {name} step by {seconds:g} s, the forecaster by "
            f"{forecaster.step / np.timedelta64(1, 's'):g} s: make it of their step, "
            "ga.xarray.Forecaster(network, "
            f"statistics, np.timedelta64({seconds:.0f}, 's')), or the windows of its own, Windows(…, step=…)"
        )
    if windows.statistics is not None:
        raise ValueError(f"the windows for {name} are normalised: leave it to the forecaster, normalise=None")
    if windows.input_steps != 1 or windows.target_steps < 1:
        raise ValueError(
            f"a forecaster sees one step and predicts others: Windows(…, input_steps=1, target_steps=1), and "
            f"those for {name} have {windows.input_steps} and {windows.target_steps}"
        )
    if windows.target_schema.names != forecaster.schema.changing.names:
        raise ValueError(
            f"the windows for {name} have the targets {list(windows.target_schema.names)}, and the "
            f"forecaster steps {list(forecaster.schema.changing.names)}: leave targets out"
        )
