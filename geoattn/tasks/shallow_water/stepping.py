"""Time steps of the shallow-water equations: classical Runge–Kutta, and one that knows gravity waves."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Tendency = Callable[[Tensor], Tensor]


def runge_kutta(tendency: Tendency, state: Tensor, seconds: float) -> Tensor:
    """The classical fourth-order step."""
    first = tendency(state)
    second = tendency(state + 0.5 * seconds * first)
    third = tendency(state + 0.5 * seconds * second)
    fourth = tendency(state + seconds * third)
    return state + (seconds / 6) * (first + 2 * (second + third) + fourth)


class Exponential:
    """A step that integrates exactly the gravity waves of a fluid at rest of uniform depth, and what damps.

    With state = (h, ζ, δ), the equations are split into a linear part L and the rest N::

        ∂h/∂t = −H δ − d h + …        ∂ζ/∂t = −d ζ + …        ∂δ/∂t = −g ∇²h − d δ + …

    For each degree l, of which d is the damping rate, L turns depth and divergence into each other with the
    frequency ω = √(g H l(l+1)) / a. N is advanced by the fourth-order exponential Runge–Kutta step of
    Krogstad (2005), J. Comput. Phys. 203, 72–88. Where N is constant, as in a steady state, it is exact.

    Parameters
    ----------
    laplacian : Tensor
        Eigenvalues −l(l+1)/a² of each degree, ``[T + 1, 1]``.
    damping : Tensor
        Rates d in 1/s, ``[T + 1, 1]``.
    gravity : float
        In m/s².
    depth : Tensor
        H in metres, ``[...]`` in the batch shape of the states.
    seconds : float
        Length of the step.
    """

    def __init__(
        self, laplacian: Tensor, damping: Tensor, gravity: float, depth: Tensor, seconds: float
    ) -> None:
        self.seconds, self._depth, self._damping = seconds, depth[..., None, None], damping
        self._stiffness = -gravity * laplacian
        frequency = (self._depth * self._stiffness).sqrt()
        self._half, self._whole = (self._functions(frequency, part * seconds) for part in (0.5, 1.0))

    def _functions(self, frequency: Tensor, seconds: float) -> list[tuple[Tensor, ...]]:
        """φ_k(L · seconds) for k from 0 to 3: even + odd · (L + d) of depth and divergence; of vorticity."""
        waves, damping = frequency > 0, self._damping.double()
        of_pairs = phi_functions(seconds * torch.complex(-damping, frequency.double()))
        of_vorticity = phi_functions(-seconds * damping)

        def real(x: Tensor) -> Tensor:
            return x.to(frequency.dtype)

        return [
            (
                real(pair.real),
                real(torch.where(waves, pair.imag / frequency.where(waves, 1.0), 0.0)),
                real(alone),
            )
            for pair, alone in zip(of_pairs, of_vorticity, strict=True)
        ]

    def __call__(self, tendency: Tendency, state: Tensor) -> Tensor:
        """The state after the step; ``tendency`` is all of it, damping included."""
        h = self.seconds

        def rest(state: Tensor) -> Tensor:
            return tendency(state) - self._linear(state)

        first = rest(state)
        begun = self._apply(self._half[0], state) + (h / 2) * self._apply(self._half[1], first)
        second = rest(begun)
        third = rest(begun + h * self._apply(self._half[2], second - first))
        begun = self._apply(self._whole[0], state) + h * self._apply(self._whole[1], first)
        fourth = rest(begun + 2 * h * self._apply(self._whole[2], third - first))
        middle = second + third
        return (
            begun
            + h * self._apply(self._whole[2], 2 * middle - 3 * first - fourth)
            + 4 * h * self._apply(self._whole[3], first - middle + fourth)
        )

    def _linear(self, state: Tensor) -> Tensor:
        """L."""
        depth, vorticity, divergence = state.unbind(-3)
        waves = (-self._depth * divergence, torch.zeros_like(vorticity), self._stiffness * depth)
        return torch.stack(waves, -3) - self._damping * state

    def _apply(self, function: tuple[Tensor, ...], state: Tensor) -> Tensor:
        """A function of L times a state."""
        even, odd, alone = function
        depth, vorticity, divergence = state.unbind(-3)
        return torch.stack(
            (
                even * depth - odd * self._depth * divergence,
                alone * vorticity,
                even * divergence + odd * self._stiffness * depth,
            ),
            -3,
        )


def phi_functions(z: Tensor) -> list[Tensor]:
    """φ_0 = e^z, and φ_k = (φ_{k−1} − 1/(k−1)!) / z, up to φ_3, for real or complex z."""
    near = z.abs() < 1.0  # where the recurrence would cancel, the series: 1/21! is below rounding
    far = torch.where(near, 1.0, z)
    found = [torch.exp(z)]
    recurrence = torch.exp(far)
    for k in range(1, 4):
        recurrence = (recurrence - 1 / math.factorial(k - 1)) / far
        series = functools.reduce(
            lambda total, n, k=k: total * z + 1 / math.factorial(n + k),  # type: ignore[misc]
            range(20, -1, -1),
            torch.zeros_like(z),
        )
        found.append(torch.where(near, series, recurrence))
    return found
