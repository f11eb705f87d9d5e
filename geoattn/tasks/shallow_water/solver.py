"""The shallow-water equations on the rotating sphere, by spherical harmonics.

One layer of fluid of depth h over an orography b, with the tangential wind V = (u, v) written as its
vorticity ζ = k·∇×V and divergence δ = ∇·V, scalars that are smooth at the poles where u and v are not:

    ∂ζ/∂t = −∇·((ζ + f) V)
    ∂δ/∂t = k·∇×((ζ + f) V) − ∇²(g (h + b) + |V|²/2)
    ∂h/∂t = −∇·(h V)

Products are formed on the grid, derivatives are taken on the coefficients. Under the default truncation
(the "2/3 rule": 3T + 1 ≤ nlon, and a quadrature exact to degree 3T) all these quadratic products come back
free of aliasing. The mean of a divergence is exactly zero, so mass is conserved to round-off.

Time advances by the classical fourth-order Runge–Kutta step, or by an exponential one of the same order that
integrates gravity waves exactly. Both keep steady states of the truncated equations, and neither has a
computational mode to filter. The limit of the former is the speed of gravity waves: about 20 minutes at T21,
10 at T42; that of the latter is the wind, and steps are three to four times as long. Formulation: Williamson
et al. (1992), J. Comput. Phys. 102.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from geoattn.grids import LatLonGrid
from geoattn.tasks.shallow_water.harmonics import Harmonics
from geoattn.tasks.shallow_water.stepping import Exponential, runge_kutta

#: channels of a state, in order: metres, 1/s, 1/s
CHANNELS = ("depth", "vorticity", "divergence")

#: ways to step in time
Scheme = Literal["runge-kutta", "exponential"]

HOUR = 3600.0
DAY = 24 * HOUR


@dataclasses.dataclass(frozen=True)
class Planet:
    """Radius in m, angular velocity in rad/s, gravity in m/s²: those of Williamson et al. (1992)."""

    radius: float = 6.37122e6
    angular_velocity: float = 7.292e-5
    gravity: float = 9.80616


EARTH = Planet()


class ShallowWater:
    """A spectral shallow-water model on a lat-lon grid.

    A *state* is a complex tensor ``[..., 3, T + 1, T + 1]``: the coefficients (degree, order) of depth,
    vorticity and divergence. *Fields* are the same three quantities on the grid, real,
    ``[..., 3, nlat, nlon]``. Leading axes are a batch.

    Parameters
    ----------
    grid : LatLonGrid
        Gaussian, Lobatto, or equiangular with poles.
    truncation : int, optional
        Highest degree T kept (triangular). By default the largest that keeps quadratic products free of
        aliasing: T21 on a 32×64 Gaussian grid, T42 on 64×128.
    planet : Planet
        Radius, angular velocity and gravity.
    rotation_angle : float
        Angle in degrees between the axis of the planet's rotation and the poles of the grid (Williamson's
        α): f = 2Ω(sinφ cosα − cosλ cosφ sinα).
    orography : Tensor, optional
        Height b of the ground in metres, ``[nlat, nlon]``; truncated like everything else.
    damping_time : float, optional
        Seconds in which hyperdiffusion damps the highest degree by a factor e. Without it there is no
        hyperdiffusion.
    damping_order : int
        Order of the hyperdiffusion: 4 for ∇⁴. The damping rate grows as (l(l+1))^(order/2).
    scheme
        "runge-kutta" for the classical step, "exponential" for :class:`~.stepping.Exponential`.
    dtype, device
        Of the real fields: ``torch.float64`` (default) or ``torch.float32``.

    Raises
    ------
    ValueError
        If the grid has no harmonic transform, or cannot hold the truncation.
    """

    def __init__(
        self,
        grid: LatLonGrid,
        *,
        truncation: int | None = None,
        planet: Planet = EARTH,
        rotation_angle: float = 0.0,
        orography: Tensor | None = None,
        damping_time: float | None = None,
        damping_order: int = 4,
        scheme: Scheme = "runge-kutta",
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if damping_time is not None and not damping_time > 0:
            raise ValueError(
                f"damping_time={damping_time} must be positive seconds, or None for no hyperdiffusion"
            )
        if scheme not in get_args(Scheme):
            raise ValueError(f"scheme={scheme!r} must be one of {', '.join(map(repr, get_args(Scheme)))}")
        self.scheme: Scheme = scheme
        self.grid, self.planet, self.dtype, self.device = grid, planet, dtype, torch.device(device)
        self.harmonics = Harmonics(grid, truncation, dtype=dtype, device=self.device)
        self.truncation = self.harmonics.truncation
        self.lat, self.lon, self.weights = (
            self._real(torch.from_numpy(axis.copy())) for axis in (grid.lat, grid.lon, grid.weights)
        )
        self.lat, self.lon = torch.deg2rad(self.lat), torch.deg2rad(self.lon)

        alpha = math.radians(rotation_angle)
        self.sine_of_latitude = (  # of the latitude about the axis of rotation
            self.lat.sin() * math.cos(alpha) - self.lon.cos() * self.lat.cos() * math.sin(alpha)
        )
        self.coriolis = 2 * planet.angular_velocity * self.sine_of_latitude

        degree = self._real(torch.arange(self.truncation + 1))[:, None]
        eigenvalue = degree * (degree + 1)
        #: of the highest degree, in 1/m
        self.wavenumber = math.sqrt(self.truncation * (self.truncation + 1)) / planet.radius
        self.laplacian = -eigenvalue / planet.radius**2
        self.inverse_laplacian = torch.where(degree > 0, 1 / self.laplacian, 0.0)
        self._damping_rate = torch.zeros_like(eigenvalue)
        if damping_time is not None:
            self._damping_rate = (eigenvalue / eigenvalue[-1]) ** (damping_order / 2) / damping_time

        height = torch.zeros(grid.shape) if orography is None else torch.as_tensor(orography)
        self._prepared: tuple[Any, Exponential] | None = None
        self._ground = self.harmonics.analyse(self._real(height))
        self.orography = self.harmonics.synthesise(self._ground)

    def _real(self, values: Tensor) -> Tensor:
        return values.to(device=self.device, dtype=self.dtype)

    # --- between the grid and the coefficients ---------------------------------------------------

    def to_state(self, fields: Tensor) -> Tensor:
        """The state of depth (m), vorticity and divergence (1/s) on the grid, ``[..., 3, nlat, nlon]``."""
        return self.harmonics.analyse(self._real(fields))

    def to_fields(self, state: Tensor) -> Tensor:
        """Depth (m), vorticity and divergence (1/s) of a state on the grid, ``[..., 3, nlat, nlon]``."""
        return self.harmonics.synthesise(state)

    def from_wind(self, depth: Tensor, eastward: Tensor, northward: Tensor) -> Tensor:
        """The state of a depth (m) and a wind (m/s), each ``[..., nlat, nlon]``."""
        wind = self._real(torch.stack((eastward, northward), dim=-3))
        rotational = self.harmonics.curl_and_divergence(wind) / self.planet.radius
        return torch.cat((self.harmonics.analyse(self._real(depth)).unsqueeze(-3), rotational), dim=-3)

    def wind(self, state: Tensor) -> Tensor:
        """Eastward and northward wind of a state in m/s, ``[..., 2, nlat, nlon]``."""
        return self.harmonics.wind(state[..., 1:, :, :] * self.planet.radius)

    # --- dynamics -----------------------------------------------------------------------------------

    def tendency(self, state: Tensor) -> Tensor:
        """Time derivative of a state, hyperdiffusion excepted."""
        depth, vorticity = self.harmonics.synthesise(state[..., :2, :, :]).unbind(-3)
        wind = self.wind(state)
        carried = torch.stack((vorticity + self.coriolis, depth), dim=-3)
        flux = carried.unsqueeze(-3) * wind.unsqueeze(-4)
        curl, divergence = (self.harmonics.curl_and_divergence(flux) / self.planet.radius).unbind(-3)
        energy = self.planet.gravity * (state[..., 0, :, :] + self._ground)
        energy = energy + self.harmonics.analyse(0.5 * wind.square().sum(-3))
        return torch.stack(
            (
                -divergence[..., 1, :, :],
                -divergence[..., 0, :, :],
                curl[..., 0, :, :] - self.laplacian * energy,
            ),
            dim=-3,
        )

    def step(self, state: Tensor, time_step: float) -> Tensor:
        """The state ``time_step`` seconds later, hyperdiffusion included."""
        if self.scheme == "exponential":
            return self._exponential(state, time_step)(self._damped_tendency, state)
        return self._damp(runge_kutta(self.tendency, state, time_step), time_step)

    def _damped_tendency(self, state: Tensor) -> Tensor:
        # of the surface h + b: a level one over a mountain is at rest while its depth is not uniform
        surface = torch.cat((state[..., :1, :, :] + self._ground, state[..., 1:, :, :]), dim=-3)
        return self.tendency(state) - self._damping_rate * surface

    def _exponential(self, state: Tensor, time_step: float) -> Exponential:
        """The step about a fluid of the mean depth of each state, which no step changes."""
        depths = state[..., 0, 0, 0].real.double() / math.sqrt(4 * math.pi)
        shape, numbers = depths.shape, tuple(float(f"{x:.6g}") for x in depths.flatten().tolist())
        key = (time_step, shape, numbers)
        if self._prepared is None or self._prepared[0] != key:
            depth = self._real(torch.tensor(numbers, dtype=torch.float64).reshape(shape))
            step = Exponential(self.laplacian, self._damping_rate, self.planet.gravity, depth, time_step)
            self._prepared = key, step
        return self._prepared[1]

    def _damp(self, state: Tensor, seconds: float) -> Tensor:
        # exactly integrated, hence stable at any strength; on the surface, as above
        decay = torch.expm1(-seconds * self._damping_rate)
        depth, rotational = state[..., :1, :, :], state[..., 1:, :, :]
        return torch.cat((depth + decay * (depth + self._ground), rotational + decay * rotational), dim=-3)

    def stable_time_step(self, state: Tensor, courant: float | None = None) -> float:
        """Seconds a step may take: ``courant`` over the angular frequency of the fastest wave.

        By default 1.5, and 1.2 for the exponential scheme, with which errors of standard cases are the same.

        The fastest wave is a gravity wave of the highest degree that the wind carries along; for the
        exponential scheme, of its speed only what differs from that in a fluid of mean depth counts, and
        the planet's rotation. Runge–Kutta becomes unstable at 2.8; at 1.5 it damps that wave by 6 % a step.
        """
        if courant is None:
            courant = 1.2 if self.scheme == "exponential" else 1.5
        depth = self.to_fields(state)[..., 0, :, :]
        wind, waves = self.wind(state).square().sum(-3).sqrt(), self._wave_speed(depth)
        if self.scheme == "exponential":
            mean = state[..., 0, 0, 0].real[..., None, None] / math.sqrt(4 * math.pi)
            fastest = float((wind + (waves - self._wave_speed(mean)).abs()).max()) * self.wavenumber
            return courant / math.hypot(fastest, 2 * self.planet.angular_velocity)
        return courant / (float((wind + waves).max()) * self.wavenumber)

    def _wave_speed(self, depth: Tensor) -> Tensor:
        """Of gravity waves, in m/s."""
        return (self.planet.gravity * depth).clamp(min=0).sqrt()

    def run(
        self,
        state: Tensor,
        seconds: float,
        *,
        save_every: float | None = None,
        time_step: float | None = None,
    ) -> Tensor:
        """Integrate, keeping the initial state, one state per interval, and the final one.

        Parameters
        ----------
        state : Tensor
            ``[..., 3, T + 1, T + 1]``.
        seconds : float
            Length of the run.
        save_every : float, optional
            Seconds between kept states, a divisor of ``seconds``; by default only both ends are kept.
        time_step : float, optional
            Longest step in seconds; it is shortened to divide the interval. By default
            :meth:`stable_time_step` of the initial state.

        Returns
        -------
        Tensor
            ``[intervals + 1, ..., 3, T + 1, T + 1]``; the last entry is the final state.

        Raises
        ------
        ValueError
            If the run is not a whole number of intervals.
        FloatingPointError
            If the state stops being finite.
        """
        interval = seconds if save_every is None else save_every
        intervals = round(seconds / interval)
        if intervals < 1 or not math.isclose(intervals * interval, seconds, rel_tol=1e-9):
            raise ValueError(
                f"seconds={seconds} is not a whole number of intervals of save_every={save_every} seconds"
            )
        if time_step is None:
            time_step = self.stable_time_step(state)
        substeps = math.ceil(interval / time_step - 1e-9)
        kept = [state]
        for number in range(1, intervals + 1):
            for _ in range(substeps):
                state = self.step(state, interval / substeps)
            if not bool(torch.isfinite(torch.view_as_real(state)).all()):
                raise FloatingPointError(
                    f"the run blew up before {number * interval / HOUR:g} h with steps of "
                    f"{interval / substeps:g} s: take a shorter time_step, or damp small scales with "
                    "ShallowWater(..., damping_time=...)"
                )
            kept.append(state)
        return torch.stack(kept)

    # --- balance and invariants ---------------------------------------------------------------------

    def balanced_depth(self, state: Tensor, mean_depth: float) -> Tensor:
        """Coefficients of the depth for which the divergence has no tendency (nonlinear balance).

        Solves ∇²(g(h + b)) = k·∇×((ζ + f)V) − ∇²(|V|²/2) for h; the depth in ``state`` is not used.
        """
        without = state.clone()
        without[..., 0, :, :] = -self._ground
        energy = self.inverse_laplacian * self.tendency(without)[..., 2, :, :]
        depth = energy / self.planet.gravity - self._ground
        depth[..., 0, 0] = mean_depth * math.sqrt(4 * math.pi)  # the constant harmonic is 1/√4π
        return depth

    def invariants(self, state: Tensor) -> dict[str, Tensor]:
        """Integrals that the exact equations conserve, each with the batch shape of the state.

        Returns
        -------
        dict
            ``mass``: ∫h dA in m³ (the density is 1); ``energy``: ∫½h|V|² + ½g((h+b)² − b²) dA in m⁵/s²;
            ``potential_enstrophy``: ∫½(ζ + f)²/h dA in m/s².
        """
        depth, vorticity, _ = self.to_fields(state).unbind(-3)
        kinetic = 0.5 * depth * self.wind(state).square().sum(-3)
        potential = 0.5 * self.planet.gravity * ((depth + self.orography).square() - self.orography.square())
        densities: dict[str, Any] = {
            "mass": depth,
            "energy": kinetic + potential,
            "potential_enstrophy": 0.5 * (vorticity + self.coriolis).square() / depth,
        }
        area = self.planet.radius**2
        return {name: area * self.grid.integrate(density) for name, density in densities.items()}

    def drift(self, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        """Relative change of each of the :meth:`invariants` between two states."""
        first, last = self.invariants(before), self.invariants(after)
        return {name: (last[name] - first[name]) / first[name] for name in first}

    def energy_spectrum(self, state: Tensor) -> Tensor:
        """Kinetic energy of each degree, ``[..., T + 1]`` in m²/s².

        Summed over degrees, the mean of |V|²/2 over the sphere: E_l = a² / (2 l(l+1)) · Σ_m (|ζ_lm|² +
        |δ_lm|²) / 4π, orders −m counted with m.
        """
        orders = torch.full((state.shape[-1],), 2.0, dtype=self.dtype, device=self.device)
        orders[0] = 1.0
        power = (state[..., 1:, :, :].abs().square() * orders).sum((-3, -1)) / (4 * math.pi)
        return -0.5 * self.inverse_laplacian[:, 0] * power

    def __repr__(self) -> str:
        return f"ShallowWater T{self.truncation} on {self.grid!r}, {self.dtype}, {self.device}"
