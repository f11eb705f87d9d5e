"""Samples in an order that follows from a seed, and a check of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from geoattn.training.config import FitConfig


class Checked(Dataset[Any]):
    """The same samples; one with NaN or infinite numbers stops the run, with its name.

    The name is the sample's own entry ``"name"``, or what ``dataset.name_of(index)`` says, or the index.

    Examples
    --------
    >>> spoiled = torch.utils.data.TensorDataset(torch.tensor([1.0, torch.nan]))
    >>> checked = ga.training.Checked(spoiled, "training")
    >>> try:
    ...     checked[1]
    ... except ValueError as reason:
    ...     print(reason)
    1 values of sample 1 for training are NaN or infinite; fill and mask them
    """

    def __init__(self, dataset: Dataset[Any], part: str) -> None:
        self.dataset, self.part = dataset, part

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        for values in _tensors(sample):
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                count = int((~torch.isfinite(values)).sum())
                raise ValueError(
                    f"{count} values of {self._name(sample, index)} are NaN or infinite; fill and mask them"
                )
        return sample

    def _name(self, sample: Any, index: int) -> str:
        if isinstance(sample, Mapping) and "name" in sample:
            return str(sample["name"])
        name_of = getattr(self.dataset, "name_of", None)
        return f"sample {index} for {self.part}" if name_of is None else str(name_of(index))


def _tensors(sample: Any) -> Iterator[Tensor]:
    if isinstance(sample, Tensor):
        yield sample
    elif isinstance(sample, Mapping):
        for value in sample.values():
            yield from _tensors(value)
    elif isinstance(sample, Sequence) and not isinstance(sample, str):
        for value in sample:
            yield from _tensors(value)


class Rounds(Sampler[int]):
    """Samples of one round of ``batches`` batches, of an endless stream of shuffled epochs.

    The stream follows from the seed alone, and the round says where in it one is: a run that resumes
    sees what it would have seen. What does not fill a batch at the end of an epoch is left out. Of each
    batch, process ``rank`` gets every ``replicas``-th sample.

    Examples
    --------
    >>> list(ga.training.Rounds(size=4, batch_size=2, batches=2, seed=0))
    [0, 1, 3, 2]
    """

    def __init__(
        self, size: int, batch_size: int, batches: int, seed: int, replicas: int = 1, rank: int = 0
    ) -> None:
        if size < batch_size:
            raise ValueError(
                f"{size} samples fill no batch of {batch_size}: provide more, or lower batch_size"
            )
        self.size, self.batch_size, self.batches, self.seed = size, batch_size, batches, seed
        self.replicas, self.rank = replicas, rank
        self.round = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to a round; Lightning calls it an epoch."""
        self.round = epoch

    def __len__(self) -> int:
        return self.batches * self.batch_size // self.replicas

    def __iter__(self) -> Iterator[int]:
        per_epoch = self.size // self.batch_size
        order, shuffled = torch.empty(0), -1
        for number in range(self.round * self.batches, (self.round + 1) * self.batches):
            epoch, batch = divmod(number, per_epoch)
            if epoch != shuffled:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order, shuffled = torch.randperm(self.size, generator=generator), epoch
            members = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield from members[self.rank :: self.replicas].tolist()


class Data(lightning.LightningDataModule):
    """Training and validation samples for :func:`fit`, in batches, checked and in repeatable order.

    Examples
    --------
    >>> fields = torch.randn(12, 1, 8, 16)
    >>> pairs = torch.utils.data.TensorDataset(fields, fields)
    >>> data = ga.training.Data(pairs, pairs, ga.training.FitConfig(batch_size=4))
    >>> len(data.val_dataloader())
    3
    """

    def __init__(self, train: Dataset[Any], validation: Dataset[Any], config: FitConfig) -> None:
        super().__init__()
        self.train, self.validation = Checked(train, "training"), Checked(validation, "validation")
        self.config = config

    def _options(self, parts: int = 1) -> dict[str, Any]:
        c, (replicas, _) = self.config, self._processes()
        batch_size = c.batch_size
        if batch_size % (replicas * parts):
            each = f", each in {parts} parts" if parts > 1 else ""
            raise ValueError(
                f"batch_size={batch_size} does not divide among {replicas} processes{each}: take a multiple, "
                "or a larger domain"
            )
        return {
            "batch_size": batch_size // replicas // parts,
            "num_workers": c.workers,
            "persistent_workers": c.workers > 0,
        }

    def _processes(self) -> tuple[int, int]:
        """How many share a batch, and which of them this is; those of one domain have the same samples."""
        if not self.trainer:
            return 1, 0
        return self.trainer.world_size // self.config.domain, self.trainer.global_rank // self.config.domain

    def train_dataloader(self) -> DataLoader[Any]:
        c = self.config
        rounds = Rounds(len(self.train), c.batch_size, c.round_length, c.seed, *self._processes())
        return DataLoader(self.train, sampler=rounds, **self._options(c.accumulate))

    def val_dataloader(self) -> DataLoader[Any]:
        part: Any = DistributedSampler(self.validation, *self._processes(), shuffle=False)
        return DataLoader(self.validation, sampler=part, **self._options())
