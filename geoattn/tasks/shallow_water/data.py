"""Random flows and their trajectories, as training data.

A sample holds depth, vorticity and divergence on the grid. All three are scalars that are smooth over the
poles, and together they determine the flow; wind components would be neither smooth there nor invariant
when the sphere is turned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geoattn import _extras
from geoattn.grids import LatLonGrid
from geoattn.tasks.shallow_water.solver import CHANNELS, HOUR, ShallowWater

if TYPE_CHECKING:
    import xarray


def random_balanced_states(
    solver: ShallowWater,
    seeds: Sequence[Sequence[int] | int],
    *,
    wind_speed: tuple[float, float] = (10.0, 25.0),
    mean_depth: float = 8000.0,
    peak_degree: float = 6.0,
) -> Tensor:
    """Random eddies and jets without divergence, with the depth in nonlinear balance with them.

    The coefficients of vorticity are Gaussian and isotropic. The kinetic energy of degree l goes as
    x² exp(−x²) with x = l / ``peak_degree``, so that a truncation of three times the peak holds it all.

    Parameters
    ----------
    solver : ShallowWater
        Gives truncation, rotation and orography.
    seeds : sequence of int or of sequences of int
        One per state: a state depends on its own seed and on no other.
    wind_speed : (float, float)
        The root-mean-square wind of each state is drawn uniformly from this range, in m/s.
    mean_depth : float
        In metres.
    peak_degree : float
        Degree of the most energetic eddies: 6 is a wavelength of about 6,700 km.

    Returns
    -------
    Tensor
        States ``[len(seeds), 3, T + 1, T + 1]``.

    Raises
    ------
    ValueError
        If a balanced depth is not positive everywhere: the flow is too strong for the mean depth.
    """
    size = solver.truncation + 1
    degree, order = np.tril_indices(size)  # by degree: another truncation draws the same large scales
    x = degree / peak_degree
    energy = x**2 * np.exp(-(x**2))
    deviation = np.sqrt(degree * (degree + 1) * energy / (2 * degree + 1)) * np.where(order > 0, 0.5**0.5, 1)
    vorticity = np.zeros((len(seeds), size, size), dtype=np.complex128)
    speeds = np.empty(len(seeds))
    for index, seed in enumerate(seeds):
        random = np.random.default_rng(seed)
        speeds[index] = random.uniform(*wind_speed)
        real, imaginary = random.standard_normal((len(degree), 2)).T
        vorticity[index, degree, order] = deviation * (real + 1j * np.where(order > 0, imaginary, 0))

    state = torch.zeros(len(seeds), 3, size, size, dtype=solver.dtype.to_complex(), device=solver.device)
    state[:, 1] = torch.from_numpy(vorticity).to(state)
    mean_square = solver.grid.integrate(solver.wind(state).square().sum(-3)) / (4 * math.pi)
    state[:, 1] *= (torch.from_numpy(speeds).to(mean_square) / mean_square.sqrt())[:, None, None]
    state[:, 0] = solver.balanced_depth(state, mean_depth)
    shallowest = float(solver.to_fields(state)[:, 0].min())
    if not shallowest > 0:
        raise ValueError(
            f"winds of wind_speed={wind_speed} m/s balance a depth of {shallowest:.0f} m somewhere in a "
            f"fluid of mean_depth={mean_depth} m: take slower winds or a deeper fluid"
        )
    return state


def filter_gravity_waves(
    solver: ShallowWater, states: Tensor, hours: float = 24.0, *, time_step: float
) -> Tensor:
    """The slow part of a flow: its average over a run of ``hours``, weighted towards the middle.

    Gravity waves cross the globe in a day, and average out; vortices move with the wind, and stay. What
    remains of the divergence belongs to the vortices and changes with them. The weights are a sinc with
    Lanczos' window, both with the length of the run as their period, as in the digital filter
    initialisation of Lynch and Huang (1992), Mon. Wea. Rev. 120, 1019–1034. The average is linear, so
    mass stays what it was. Steps must be shorter than the period of any gravity wave: one that comes back to
    where it was would seem slow.

    Returns
    -------
    Tensor
        States in the middle of the run, ``hours / 2`` after the ones given.
    """
    half = math.ceil(hours * HOUR / (2 * time_step) - 1e-9)
    seconds = hours * HOUR / (2 * half)
    weights = np.sinc(np.arange(-half, half + 1) / half) ** 2
    weights /= weights.sum()
    average = torch.zeros_like(states)
    for weight in weights[1:-1]:  # the first and the last are zero
        states = solver.step(states, seconds)
        average += float(weight) * states
    return average


def generate_trajectories(
    grid: LatLonGrid,
    count: int,
    steps: int,
    dt_hours: float,
    seed: int = 0,
    *,
    first: int = 0,
    filter_hours: float = 24.0,
    time_step: float | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    truncation: int | None = None,
    orography: Tensor | None = None,
    **flow: Any,
) -> Tensor:
    """Trajectories of the shallow-water equations from random balanced states.

    Parameters
    ----------
    grid : LatLonGrid
        A grid the solver takes.
    count : int
        Number of trajectories.
    steps : int
        Number of saved intervals in each.
    dt_hours : float
        Hours between saved fields.
    seed : int
        With ``first``, decides everything. Trajectory i is that of (seed, first + i) whatever the count,
        so that ``first=count`` continues a set with trajectories it does not hold.
    filter_hours : float
        Length of the run that :func:`filter_gravity_waves` starts each trajectory from; 0 for none. Without
        it, divergence is mostly gravity waves, which cross a third of the globe in 12 hours.
    time_step : float, optional
        Longest time step in seconds. By default 2.2 over the frequency of the smallest resolved wave at
        110 m/s, a bound on the wind and on what gravity waves differ from those in a fluid of mean depth,
        and over that of the planet's rotation.
    dtype, device, truncation, orography
        As for :class:`ShallowWater`. Hyperdiffusion damps the highest degree in 4 hours.
    **flow
        ``wind_speed``, ``mean_depth``, ``peak_degree`` of :func:`random_balanced_states`.

    Returns
    -------
    Tensor
        float32 on the CPU, ``[count, steps + 1, 3, nlat, nlon]``: depth in m, vorticity and divergence
        in 1/s.
    """
    if count < 1 or steps < 1 or not dt_hours > 0:
        raise ValueError(f"count={count}, steps={steps} and dt_hours={dt_hours} must all be positive")
    solver = ShallowWater(
        grid,
        truncation=truncation,
        damping_time=4 * HOUR,
        scheme="exponential",
        orography=orography,
        dtype=dtype,
        device=device,
    )
    if time_step is None:  # of the configuration alone: no trajectory depends on another of its batch
        time_step = 2.2 / math.hypot(110.0 * solver.wavenumber, 2 * solver.planet.angular_velocity)
    seeds = [(seed, first + index) for index in range(count)]
    state = random_balanced_states(solver, seeds, **flow)
    if filter_hours > 0:
        # at most nine tenths of a period at 450 m/s, a bound on gravity waves and wind together
        shorter = min(time_step, 0.9 * 2 * math.pi / (450.0 * solver.wavenumber))
        state = filter_gravity_waves(solver, state, filter_hours, time_step=shorter)
    interval = dt_hours * HOUR
    states = solver.run(state, steps * interval, save_every=interval, time_step=time_step)
    return torch.stack([solver.to_fields(s).float().cpu() for s in states], dim=1)


#: CF attributes of the channels
ATTRIBUTES = {
    "depth": {"long_name": "depth of the fluid", "units": "m"},
    "vorticity": {
        "long_name": "relative vorticity",
        "standard_name": "atmosphere_relative_vorticity",
        "units": "s-1",
    },
    "divergence": {
        "long_name": "divergence of the wind",
        "standard_name": "divergence_of_wind",
        "units": "s-1",
    },
}
#: what the ground is called in a data set, and its CF attributes
OROGRAPHY = "orography"
OF_GROUND = {"long_name": "height of the ground", "standard_name": "surface_altitude", "units": "m"}


def to_dataset(
    trajectories: Tensor,
    grid: LatLonGrid,
    dt_hours: float,
    *,
    first: int = 0,
    orography: Tensor | None = None,
) -> xarray.Dataset:
    """Trajectories as a data set, one after the other along ``time``, with CF attributes.

    Trajectory i starts ``(first + i) (steps + 2)`` intervals after the year 2000: one interval is left out
    before the next, which windows and statistics do not cross with ``gaps="split"``.

    Parameters
    ----------
    trajectories : Tensor
        Depth in m, vorticity and divergence in 1/s, ``[count, steps + 1, 3, nlat, nlon]``.
    grid : LatLonGrid
        Where they live.
    dt_hours : float
        Hours between the fields.
    first : int
        Number of the first trajectory.
    orography : Tensor, optional
        Height of the ground in metres, ``[nlat, nlon]``, for a variable without time.
    """
    _extras.require("a data set of trajectories", "xarray")
    import xarray

    from geoattn.xarray import coordinates

    count, states = trajectories.shape[:2]
    numbers = ((first + np.arange(count))[:, None] * (states + 1) + np.arange(states)).ravel()
    since = np.round(numbers * dt_hours * HOUR).astype("timedelta64[s]")
    fields = trajectories.flatten(0, 1).numpy()
    ground = {} if orography is None else {OROGRAPHY: (("latitude", "longitude"), orography, OF_GROUND)}
    return xarray.Dataset(
        {
            name: (("time", "latitude", "longitude"), fields[:, channel], ATTRIBUTES[name])
            for channel, name in enumerate(CHANNELS)
        }
        | ground,
        {"time": (np.datetime64("2000-01-01") + since).astype("datetime64[ns]"), **coordinates(grid).coords},
        {"Conventions": "CF-1.11", "grid": repr(grid)},
    )
