"""Checkpoints of a run: one at the end of every round, whole, checked, with the one before kept."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import TorchCheckpointIO

from geoattn._files import whole
from geoattn._warning import warn

#: torch's files are zip archives, which may end with a comment: the checksum of all before it
_MARK = b"geoattn sha256 "
_TAIL = len(_MARK) + 64


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was written."""


class CheckedIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written whole, on the disk itself, with a checksum at the end."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        with whole(path, durable=True) as partial:
            torch.save(checkpoint, partial)
            with open(partial, "r+b") as file:
                file.seek(-2, os.SEEK_END)  # the last field of an archive: the length of its comment
                file.write(_TAIL.to_bytes(2, "little"))
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0, os.SEEK_END)
                file.write(_MARK + digest.encode())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        check(Path(path))
        return super().load_checkpoint(path, map_location or (lambda storage, _: storage), weights_only)


def check(path: Path) -> None:
    """Compare a checkpoint with its checksum.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DamagedCheckpoint
        If they differ.
    """
    content = memoryview(path.read_bytes())
    expected = _MARK + hashlib.sha256(content[:-_TAIL]).hexdigest().encode()
    if bytes(content[-_TAIL:]) != expected:
        raise DamagedCheckpoint(f"the checkpoint {path} is damaged: its content and its checksum differ")


class Checkpoints(Checkpoint):
    """Writes ``last.ckpt`` when a round ends, and keeps the one before as ``before.ckpt``.

    With ``best``, also ``best.ckpt`` when ``val_loss`` is lower than ever.
    """

    def __init__(self, folder: Path, best: bool) -> None:
        self.last, self.before, self.best = (folder / f"{name}.ckpt" for name in ("last", "before", "best"))
        self.keep_best, self.lowest, self.step = best, math.inf, 0

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole; a damaged one is removed, with a warning."""
        for path, fallback in ((self.last, "the one before"), (self.before, "the beginning")):
            try:
                check(path)
                return path
            except FileNotFoundError:
                continue
            except DamagedCheckpoint as reason:
                warn(f"{reason}; the run goes on from {fallback}", RuntimeWarning)
                path.unlink(missing_ok=True)
        return None

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.global_step == self.step:
            return  # Lightning ends the round again that a resumed run begins with
        self.step = trainer.global_step
        loss = float(trainer.callback_metrics.get("val_loss", math.inf))
        if self.keep_best and loss < self.lowest:
            self.lowest = loss
            trainer.save_checkpoint(self.best)
        if trainer.is_global_zero and self.last.exists():
            with whole(self.before) as partial:
                try:
                    os.link(self.last, partial)
                except OSError:  # a file system without links
                    shutil.copyfile(self.last, partial)
        trainer.save_checkpoint(self.last)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say that the round is about to end.

        A resumed run of Lightning ends the round again and counts it again: the order of samples, which
        follows from the count, would skip a round.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts["processed"] = counts["completed"]

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest, "step": self.step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.lowest, self.step = state_dict["lowest"], state_dict["step"]


class Patience(EarlyStopping):
    """Stops when ``val_loss`` has not fallen for some rounds, a resumed run at the same one."""

    def __init__(self, rounds: int) -> None:
        # asked when the validation ends: a resumed run ends its last round again, without one
        super().__init__("val_loss", patience=rounds, check_on_train_epoch_end=False)

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self.wait_count >= self.patience:  # it had stopped when it was killed
            trainer.should_stop = True
