"""A call's tensors in the form in which kernels read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geoattn.backends.resident import Resident, uploaded
from geoattn.backends.weights import log_weights
from geoattn.grids.base import Grid

#: rows start at multiples of this many bytes, and hold as many elements that their bytes are one too
ALIGNMENT = 16
#: and lie at most as many bytes apart from one token to the next
MOST_TOKEN_STRIDE = 2**32 - 1

LOG2_E = math.log2(math.e)
#: exponents of 2 beyond this are bent back, so that all finite biases have finite ones, in their order
BEND = 2.0**125


def readable(x: Tensor) -> Tensor:
    """The tensor itself if kernels can read its rows in pieces of 16 bytes, else a padded copy.

    Models meet the condition as soon as their head dims are multiples of 8 (of 4 in float32), and
    their tokens lie less than 4 GiB apart.
    """
    if lies_well(x) and x.data_ptr() % ALIGNMENT == 0:
        return x
    padding = -x.shape[-1] % (ALIGNMENT // x.element_size())
    return torch.nn.functional.pad(x, (0, padding)).contiguous()


def lies_well(x: Tensor) -> bool:
    """Whether kernels can read rows that lie so, if the first of them is aligned."""
    size, (batch, token, head, channel) = x.element_size(), x.stride()
    apart = (batch | token | head | x.shape[-1]) * size  # a multiple if each of them is
    return channel == 1 and apart % ALIGNMENT == 0 and token * size <= MOST_TOKEN_STRIDE


def near(x: Tensor) -> bool:
    """Whether 32 bits hold the distance between tokens."""
    return x.stride(1) * x.element_size() <= MOST_TOKEN_STRIDE


class KeyBias(NamedTuple):
    """The additive key vector as exponents of 2, ``[batch or 1, key]``, if there is any."""

    exponents: Tensor | None
    #: in a block of arguments: where it is, and the stride of the batch
    numbers: tuple[int, int]
    #: the vector itself, if it is kept
    of: Tensor | None = None

    @classmethod
    def beside(cls, exponents: Tensor, of: Tensor | None = None) -> KeyBias:
        return cls(exponents, (exponents.data_ptr(), 0 if len(exponents) == 1 else exponents.shape[1]), of)


def _bytes(kept: KeyBias) -> int:
    return 0 if kept.exponents is None else kept.exponents.nbytes


#: of grids: their log-weights
_of_weights: Resident[KeyBias] = Resident(max_bytes=2**28, size=_bytes)


def key_bias_of(bias: Tensor | None, grid: Grid, device: torch.device) -> KeyBias:
    """What is added per key; that of log-weights alone is kept."""
    if bias is None:
        return KeyBias(None, (0, 0))

    def prepare() -> Callable[[], KeyBias]:
        with np.errstate(divide="ignore"):
            values = np.log2(np.asarray(grid.weights, dtype=np.float64).reshape(1, -1))
        of = log_weights(grid, device, torch.float32)
        return lambda: KeyBias.beside(uploaded(values, device, torch.float32), of)

    kept = _of_weights.of(grid, device, prepare)
    return kept if bias is kept.of else KeyBias.beside(exponents(bias).contiguous())


def exponents(x: Tensor) -> Tensor:
    """What is added to scores as exponents of 2: ``exponent`` of ``numbers.cuh``."""
    size = x.abs()
    bent = (BEND + (size - BEND / LOG2_E) / 2).copysign(x)
    return torch.where(size > BEND / LOG2_E, bent, x * LOG2_E)
