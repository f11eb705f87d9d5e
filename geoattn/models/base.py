"""What every whole model can do beside its forward pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Self

import torch
from torch import nn

from geoattn.models import pretrained
from geoattn.models.config import ModelConfig, config_of
from geoattn.nn import set_grad_checkpointing
from geoattn.nn.decay import of_parts


class Model(nn.Module):
    """Base of whole models: the configuration that defines it, and what recipes of training ask for.

    One of your own sets ``self.config`` to the :class:`ModelConfig` that builds it.

    Examples
    --------
    >>> import tempfile
    >>> grid = ga.grids.gaussian(8, 16)
    >>> model = ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=40), 1, 1, depth=1).build()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_pretrained(folder)
    ...     again = ga.models.Model.from_pretrained(folder)
    >>> again.config == model.config
    True
    """

    config: ModelConfig

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder, as model hubs lay them out.

        Grids and neighborhoods are written by name and parameters; long arrays in them, such as points of
        your own, lie in the safetensors file under ``config.…``. Other files in the folder stay.
        :func:`geoattn.models.save` writes one file with a digest over all of it instead.

        Parameters
        ----------
        path
            The folder; it is made.

        Raises
        ------
        TypeError
            If the model has no configuration.
        """
        pretrained.save(path, self, config_of(self))

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Read the model that :meth:`save_pretrained` wrote, in evaluation mode. No network is used.

        Parameters
        ----------
        path
            The folder.
        device, dtype
            Where and as what the parameters are made; by default on the CPU, as they were stored.

        Raises
        ------
        FileNotFoundError
            If the folder, or one of its two files, is not there.
        TypeError
            If it holds a model of another class; ``geoattn.models.Model`` takes any.
        ValueError
            If a file is damaged, is of something else, or the two do not belong together.
        """
        model = pretrained.load(path, device, dtype)
        if not isinstance(model, cls):
            own = type(model).__name__
            raise TypeError(
                f"{str(path)!r} holds a model of class {own}: geoattn.models.{own}.from_pretrained(…)"
            )
        return model

    def no_weight_decay(self) -> set[str]:
        """Parameters that are no weights of a map, such as coefficients of position; timm asks for them."""
        return of_parts(self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep less for the backward pass: see :func:`geoattn.nn.set_grad_checkpointing`."""
        set_grad_checkpointing(self, enable)

    def __repr__(self) -> str:
        if not isinstance(getattr(self, "config", None), ModelConfig):  # while it is made, or of your own
            return super().__repr__()
        counts = sum(p.numel() for p in self.parameters())
        first = next(self.parameters(), torch.empty(0))
        lines = [f"{type(self).__name__}: {self.config!r}"]
        rows = list(_rows(self))
        wide = max(len(name) for name, *_ in rows)
        lines += [f"  {name:<{wide}}  {count:>13,}  {words}".rstrip() for name, count, words in rows]
        lines.append(f"  {'in all':<{wide}}  {counts:>13,}  parameters, {first.dtype} on {first.device}")
        return "\n".join(lines)


def _rows(model: nn.Module) -> Iterator[tuple[str, int, str]]:
    """Each part of a model with its parameters; equal parts that follow one another share a line."""
    for name, part in model.named_children():
        count = sum(p.numel() for p in part.parameters())
        kinds = (
            [type(p).__name__ for p in part.children()]
            if isinstance(part, nn.Sequential | nn.ModuleList)
            else []
        )
        if len(kinds) == 1 or (kinds and len(set(kinds)) == 1):
            yield name, count, f"{len(kinds)} × {kinds[0]}"
        else:
            yield name, count, ", ".join(kinds) or type(part).__name__
