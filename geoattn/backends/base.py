"""What every backend is: forward and backward of one operator on flat tokens."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from geoattn.neighborhoods.base import Neighborhood


class Forward(NamedTuple):
    """Output ``[B, Nq, H, Dv]`` in the dtype of q, and natural-log lse ``[B, Nq, H]`` (float64 for
    float64 inputs, else float32). A query without a visible key has output 0 and lse −inf."""

    out: Tensor
    lse: Tensor


class Gradients(NamedTuple):
    """Gradients in the shapes and dtypes of q, k, v and of the additive key vector (or None)."""

    q: Tensor
    k: Tensor
    v: Tensor
    key_bias: Tensor | None


class Backend(Protocol):
    """One way to run attention over a neighborhood.

    Shapes: q ``[B, Nq, H, D]``, k ``[B, Nk, Hkv, D]``, v ``[B, Nk, Hkv, Dv]``, any strides, H a
    multiple of Hkv. ``key_bias`` is the one additive per-key vector (log-weights, mask as −inf,
    bias), ``[B or 1, Nk]``, float64 for float64 inputs, else float32. ``scale`` multiplies q·k.
    """

    name: str

    def unavailable(self) -> str | None:
        """Why this backend cannot run on this machine at all, or None."""

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
        """Why it cannot run these arguments (device, dtype, head dims, pattern), or None."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, hood: Neighborhood, scale: float
    ) -> Forward: ...

    def backward(
        self,
        grad_out: Tensor,
        grad_lse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        out: Tensor,
        lse: Tensor,
        hood: Neighborhood,
        scale: float,
        needs_key_bias: bool,
    ) -> Gradients: ...
