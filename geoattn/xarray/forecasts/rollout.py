"""The samples of a forecast on their way through the lead times, by one process or by several together."""

from __future__ import annotations

import dataclasses
import hashlib
from itertools import product
from typing import Any

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor

from geoattn import _extras
from geoattn._version import installed
from geoattn.xarray.forecasts.forecaster import Forecaster
from geoattn.xarray.forecasts.regions import Regions, Team
from geoattn.xarray.forecasts.rollout_store import RolloutStore
from geoattn.xarray.schema.dimensions import SAMPLES
from geoattn.xarray.schema.schema import ENCODING, Schema
from geoattn.xarray.schema.tensors import channel_part, to_xarray
from geoattn.xarray.stores.reader import Reader


class Rollout:
    """The samples of a forecast, initial times × members, and their way through the lead times."""

    def __init__(
        self,
        forecaster: Forecaster,
        reader: Reader,
        times: list[int],
        members: int,
        perturbation: float,
        seed: int,
        device: str,
        team: Team,
    ) -> None:
        self.forecaster, self.reader, self.times, self.members = forecaster, reader, times, members
        self.perturbation, self.seed, self.device = perturbation, seed, device
        self.schema, self.team = forecaster.schema, team
        #: what is written: the changing variables, as computed
        self.written = dataclasses.replace(
            self.schema.changing,
            variables=tuple(
                dataclasses.replace(variable, dtype="<f4", encoding_text="{}")
                for variable in self.schema.changing.variables
            ),
        )
        self.samples = list(product(range(len(times)), range(members)))

    def run(
        self, store: RolloutStore, steps: int, batch_size: int, names: dict[str, str], progress: bool
    ) -> None:
        _extras.require("a progress bar", "tqdm")
        from tqdm import tqdm

        batches = [self.samples[i : i + batch_size] for i in range(0, len(self.samples), batch_size)]
        if not store.allocated:
            self.team.first(lambda: self._allocate(store, steps, batches, names))
        store.adopt(self.team.first(lambda: store.record))
        regions = Regions(self.schema, store.height(), self.team.shards)
        done = sum(store.done(b) * len(batch) for b, batch in enumerate(batches))
        whole = steps * len(self.samples)
        with tqdm(total=whole, initial=done, unit="step", disable=not progress) as bar:
            for number, batch in enumerate(batches):
                self._run_batch(store, regions, number, batch, steps, bar)
        self.team.first(store.finish)

    @torch.inference_mode()
    def _run_batch(
        self,
        store: RolloutStore,
        regions: Regions,
        number: int,
        batch: list[tuple[int, int]],
        steps: int,
        bar: Any,
    ) -> None:
        reached = store.done(number)
        if reached == steps:
            return
        fields, mask = self._initial(batch)
        if reached:
            fields = self._continue(fields, store.read(number, reached))
        rollout = self.forecaster.rollout(fields, steps - reached, mask)
        changing = self.forecaster.changing
        shown = None if mask is None else regions(mask[:, changing].float()) > 0.5
        for lead, fields in enumerate(rollout, reached + 1):
            self._check_finite(fields, batch, lead)
            values, digests = regions(fields[:, changing]), {}
            for band, rows, own in regions.bands:
                part = self._variables(values[:, :, own], None if shown is None else shown[:, :, own], rows)
                digests[band] = store.write(number, lead, band, part)
            told = self.team.gather(digests)
            store.note(number, lead, [told[band] for band in sorted(told)], write=self.team.is_first)
            bar.update(len(batch))

    def _variables(
        self, fields: NDArray[np.float32], mask: NDArray[np.bool_] | None, rows: slice
    ) -> dict[str, NDArray[np.float32]]:
        """The variables as they are stored, of some rows: ``fields [B, C, rows, …]``."""
        found = {}
        for variable, channels in zip(self.written.variables, self.written.slices, strict=True):
            values = fields[:, channels].copy()
            if variable.mask == "static":
                visible = variable.visible.reshape(values.shape[1], *self.written.grid_sizes)[:, rows]
                values[:, ~visible] = np.nan
            elif variable.mask == "changing" and mask is not None:
                values[~mask[:, channels]] = np.nan
            if variable.level_dim:
                levels = len(levels_of(self.written)[variable.level_dim])
                own, shape = values, (len(values), levels, *values.shape[2:])
                values = np.full(shape, np.nan, np.float32)
                values[:, self._level_places(variable.name)] = own
                dims = ("sample", variable.level_dim, *self.written.grid_dims)
            else:
                values, dims = values[:, 0], ("sample", *self.written.grid_dims)
            found[variable.name] = values.transpose([dims.index(dim) for dim in self._dims(variable.name)])
        return found

    def _initial(self, batch: list[tuple[int, int]]) -> tuple[Tensor, Tensor | None]:
        """Initial states ``[B, C, *grid.shape]``, perturbed, and where they have values."""
        states, masks = [], []
        for t, member in batch:
            step = self.times[t]
            values, visible = self.reader.read(slice(step, step + 1))
            state = values[0].astype(np.float32)
            if member:
                noise = self._noise(t, member)
                if self.team.shards is not None:
                    noise = noise.reshape(len(noise), -1)[:, self.team.shards.tokens()]
                if visible is not None:
                    noise = np.where(visible[0, self.forecaster.changing.cpu().numpy()], noise, 0)
                state[self.forecaster.changing.cpu().numpy()] += noise
            states.append(state)
            masks.append(visible)
        shown = None if masks[0] is None else torch.from_numpy(np.concatenate(masks)).to(self.device)  # type: ignore[arg-type]
        return torch.from_numpy(np.stack(states)).to(self.device), shown

    def _noise(self, t: int, member: int) -> NDArray[np.float32]:
        """Of the changing channels, in their units: by the initial time itself, not by its number."""
        key = hashlib.sha256(f"{self.seed} {self.reader.times[self.times[t]]} {member}".encode()).digest()
        random = np.random.default_rng(np.frombuffer(key, np.uint32))
        change = self.forecaster.change.cpu().numpy()
        change = change.reshape(-1, *(1 for _ in self.schema.grid.shape))
        shape = (len(change), *self.schema.grid.shape)
        return (self.perturbation * change * random.standard_normal(shape)).astype(np.float32)

    def _continue(self, initial: Tensor, stored: dict[str, NDArray[np.float32]]) -> Tensor:
        """The fields that were written; what is missing in them, and is static, is that of the start."""
        ds = xarray.Dataset({name: (self._dims(name), values) for name, values in stored.items()})
        shape = (len(initial), len(self.written), *self.schema.grid.shape)
        values = np.empty(shape, np.float32)
        for variable, channels in zip(self.written.variables, self.written.slices, strict=True):
            rest = [dim for dim in (variable.level_dim,) if dim]
            array = ds[variable.name].transpose("sample", *rest, *self.written.grid_dims)
            if rest:
                array = array.isel({variable.level_dim: self._level_places(variable.name)})
            part = channel_part(values, channels, self.written)
            part[...] = array.values.reshape(part.shape)
        fields = torch.from_numpy(values).to(self.device)
        if self.team.shards is not None:
            fields = self.team.shards.shard(fields)
        changing = self.forecaster.changing
        return initial.index_copy(1, changing, torch.where(fields.isnan(), initial[:, changing], fields))

    def _dims(self, name: str) -> tuple[str, ...]:
        """The dimensions of one variable of a batch, as it is stored."""
        variable = self.written.variables[self.written.names.index(name)]
        return ("sample", *(d for d in variable.dims if d in (variable.level_dim, *self.written.grid_dims)))

    def _level_places(self, name: str) -> list[int]:
        """Where the levels of a variable lie among those of the store."""
        variable = self.written.variables[self.written.names.index(name)]
        there = levels_of(self.written)[variable.level_dim]
        return [there.index(level) for level in variable.levels]

    def _allocate(
        self, store: RolloutStore, steps: int, batches: list[list[tuple[int, int]]], names: dict[str, str]
    ) -> None:
        source = self.reader.stores[0].dataset
        dim = self.reader.dim
        empty = torch.zeros(1, len(self.written), *self.schema.grid.shape)
        shown = torch.ones_like(empty, dtype=torch.bool)
        like = to_xarray(empty, self.written, source.isel({dim: slice(0, 1)}), dims=[dim], mask=shown)
        dropped = {*self.written.names, *SAMPLES, *(n for n, v in like.variables.items() if dim in v.dims)}
        coords = like.drop_vars([name for name in like.variables if name in dropped])
        for variable in coords.variables.values():  # without the chunks and the compression of the input
            variable.encoding = {k: v for k, v in variable.encoding.items() if k in ENCODING}
        step = self.forecaster.step.astype("timedelta64[ns]")
        initial = self.reader.times[self.times]
        coords = coords.assign_coords(
            time=("time", initial, {"standard_name": "forecast_reference_time", "long_name": "initial time"}),
            prediction_timedelta=(
                "prediction_timedelta",
                step * np.arange(1, steps + 1),
                {"standard_name": "forecast_period", "long_name": "time since the initial time"},
            ),
        )
        if self.members > 1:
            member = {"standard_name": "realization", "long_name": "member of the ensemble"}
            coords = coords.assign_coords(realization=("realization", np.arange(self.members), member))
        coords.attrs = {
            **like.attrs,
            "source": f"geoattn {installed()}, forecast of {steps} steps",
            "grid": repr(self.schema.grid),
        }
        lead = ("time", *(("realization",) if self.members > 1 else ()), "prediction_timedelta")
        arrays = {
            variable.name: (
                (*lead, *(names.get(d, d) for d in self._dims(variable.name)[1:])),
                like[variable.name].attrs,
            )
            for variable in self.written.variables
        }
        there = {*coords.dims, *coords.variables}
        places = [[(t, m) if self.members > 1 else (t,) for t, m in batch] for batch in batches]
        row_dim = self.written.grid_dims[0]
        store.allocate(
            coords.rename({n: new for n, new in names.items() if n in there}),
            arrays,
            places,
            {names.get(row_dim, row_dim): -(-self.written.grid_sizes[0] // self.team.n)},
        )

    def _check_finite(self, fields: Tensor, batch: list[tuple[int, int]], lead: int) -> None:
        wrong = (~torch.isfinite(fields)).flatten(2).any(2)
        if self.team.shards is not None:
            wrong = self.team.shards.sum(wrong.int()) > 0
        found = wrong.nonzero()
        if len(found):
            sample, channel = found[0].tolist()
            time = self.reader.times[self.times[batch[sample][0]]]
            raise FloatingPointError(
                f"the forecast of {self.schema.labels[channel]!r} from {time} left the finite numbers at "
                f"step {lead}: the model is unstable"
            )


def levels_of(schema: Schema) -> dict[str, list[Any]]:
    """The levels of each level dimension, in the order in which they are written."""
    levels: dict[str, dict[Any, None]] = {}
    for variable in schema.variables:
        levels.setdefault(variable.level_dim, {}).update(dict.fromkeys(variable.levels))
    return {dim: list(found) for dim, found in levels.items()}
