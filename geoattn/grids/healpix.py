"""HEALPix: twelve faces of nside × nside equal-area pixels, in nested or ring order.

Pixel maths after Górski et al. 2005, doi:10.1086/427976. A pixel is a face (0–3 north, 4–7
equatorial, 8–11 south) and two coordinates on it, x to the north-east and y to the north-west.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from geoattn.grids.base import SphericalGrid, read_only
from geoattn.grids.checks import integer, positive
from geoattn.grids.sphere import Floats, Ints

# southernmost corner of each face: its row in units of nside, its longitude in units of 45°
FACE_ROW = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4])
FACE_EIGHTH = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HEALPix(SphericalGrid, kind="healpix"):
    """``12 · nside²`` pixels of equal area.

    Examples
    --------
    >>> float(ga.grids.healpix(2).weights[0] * 48 / np.pi)
    4.0
    """

    nside: int
    order: str

    def _check(self) -> None:
        positive(nside=self.nside)
        if self.order not in ("nested", "ring"):
            raise ValueError(f"order must be 'nested' or 'ring', got {self.order!r}")
        if self.order == "nested" and self.nside & (self.nside - 1):
            nside = math.isqrt(self.nside // 12)
            pixels = 12 * nside * nside == self.nside
            raise ValueError(
                f"nested order needs nside to be a power of two, got {self.nside}; "
                + (f"{self.nside} pixels are nside={nside}" if pixels else "use order='ring'")
            )

    def _shape(self) -> tuple[int, ...]:
        return (12 * self.nside**2,)

    @cached_property
    def weights(self) -> Floats:
        return np.broadcast_to(np.float64(4.0 * np.pi / self.size), self.shape)

    @property
    def turns(self) -> tuple[int, int]:
        # nested faces 0–3, 4–7 and 8–11 follow each other eastward by quarters of the globe
        return (4 * self.nside**2, 4) if self.order == "nested" else super().turns

    def faces(self) -> tuple[Ints, Ints, Ints]:
        to_face = nested_to_face if self.order == "nested" else ring_to_face
        return to_face(self.nside, np.arange(self.size))

    def lattice(self) -> Ints:
        face, x, y = self.faces()
        return np.stack((face, y, x), axis=-1)  # y before x: the Z-order curve is nested order

    @cached_property
    def _centres(self) -> tuple[Floats, Floats]:
        lat, lon = _lat_lon(self.nside, *self.faces())
        return read_only(lat), read_only(lon)

    @property
    def lat(self) -> Floats:
        return self._centres[0]

    @property
    def lon(self) -> Floats:
        return self._centres[1]

    def __repr__(self) -> str:
        return f"HEALPix grid nside {self.nside}, {self.size} pixels in {self.order} order"


def healpix(nside: int, order: str = "nested") -> HEALPix:
    """The HEALPix grid: ``12 · nside²`` pixels of equal area.

    Parameters
    ----------
    nside
        Pixels along the side of a face; in nested order a power of two.
    order
        ``"nested"``: four siblings follow each other at every level. ``"ring"``: along rings of
        equal latitude from north to south.

    Examples
    --------
    >>> ga.grids.healpix(8, order="ring")
    HEALPix grid nside 8, 768 pixels in ring order
    """
    return HEALPix(integer("nside", nside), order)


def nested_to_ring(nside: int, pixels: ArrayLike) -> Ints:
    """Ring numbers of pixels given by their nested numbers, in the shape of ``pixels``.

    Examples
    --------
    >>> ga.grids.nested_to_ring(2, [0, 1, 2, 3])
    array([13,  5,  4,  0])
    """
    return face_to_ring(nside, *nested_to_face(nside, _numbers(nside, pixels)))


def ring_to_nested(nside: int, pixels: ArrayLike) -> Ints:
    """Nested numbers of pixels given by their ring numbers, in the shape of ``pixels``.

    Examples
    --------
    >>> ga.grids.ring_to_nested(2, ga.grids.nested_to_ring(2, [0, 1, 2, 3]))
    array([0, 1, 2, 3])
    """
    return face_to_nested(nside, *ring_to_face(nside, _numbers(nside, pixels)))


def _numbers(nside: int, pixels: ArrayLike) -> Ints:
    size = healpix(nside, "nested").size  # checks nside
    numbers = np.asarray(pixels)
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"pixel numbers must be integers, got {numbers.dtype}")
    for wrong in numbers[(numbers < 0) | (numbers >= size)][:1]:
        raise ValueError(f"pixel {wrong} is not among the {size} pixels of nside {nside}")
    return numbers.astype(np.int64)


def nested_to_face(nside: int, pixels: Ints) -> tuple[Ints, Ints, Ints]:
    """Face, x and y of pixels given by their nested numbers: the bits of x and y alternate."""
    face, place = np.divmod(pixels, nside * nside)
    return face, _even_bits(place), _even_bits(place >> 1)


def face_to_nested(nside: int, face: Ints, x: Ints, y: Ints) -> Ints:
    """Nested numbers of pixels given by face, x and y."""
    return face * nside * nside + _spread_bits(x) + 2 * _spread_bits(y)


def face_to_ring(nside: int, face: Ints, x: Ints, y: Ints) -> Ints:
    """Ring numbers of pixels given by face, x and y."""
    row, quarter, halves = _ring(nside, face, x, y)
    before = np.where(
        row <= nside,
        2 * row * (row - 1),
        np.where(
            row <= 3 * nside,
            2 * nside * (2 * row - nside - 1),
            12 * nside * nside - 2 * quarter * (quarter + 1),
        ),
    )
    return before + halves // 2


def ring_to_face(nside: int, pixels: Ints) -> tuple[Ints, Ints, Ints]:
    """Face, x and y of pixels given by their ring numbers."""
    size, cap = 12 * nside * nside, 2 * nside * (nside - 1)
    face, x, y = (np.empty_like(pixels) for _ in range(3))

    north, south = pixels < cap, pixels >= size - cap
    belt = ~(north | south)

    row, quarter, place = _cap_ring(pixels[north])
    face[north], x[north], y[north] = quarter, nside - row + place, nside - 1 - place

    # the southern cap is the northern one turned upside down and run backwards
    row, quarter, place = _cap_ring(size - 1 - pixels[south])
    face[south], x[south], y[south] = 11 - quarter, row - 1 - place, place

    # in the belt the edges of the faces are the diagonals of (row, eastward half pixels)
    row, column = np.divmod(pixels[belt] - cap, 4 * nside)
    halves = 2 * column + 1 - row % 2
    row += nside
    rising, along_x = np.divmod(halves - row - 1 + nside, 2 * nside)
    falling, along_y = np.divmod(halves + row + nside, 2 * nside)
    face[belt] = 4 * (falling - rising - 1) + (rising + falling) % 8 // 2
    x[belt], y[belt] = along_x // 2, nside - 1 - along_y // 2
    return face, x, y


def _cap_ring(pixels: Ints) -> tuple[Ints, Ints, Ints]:
    """Row from the pole (from 1), quarter of the globe and place in it, of pixels of the northern cap."""
    # the largest row with 2 row (row − 1) ≤ pixel; the square root is exact where it is whole
    row = ((1.0 + np.sqrt(1.0 + 2.0 * pixels)) / 2.0).astype(np.int64)
    quarter, place = np.divmod(pixels - 2 * row * (row - 1), row)
    return row, quarter, place


def _ring(nside: int, face: Ints, x: Ints, y: Ints) -> tuple[Ints, Ints, Ints]:
    """Row from the north (from 1), pixels in a quarter of its ring, and eastward half pixels from 0°."""
    row = FACE_ROW[face] * nside - x - y - 1
    quarter = np.minimum(np.minimum(row, 4 * nside - row), nside)
    return row, quarter, (FACE_EIGHTH[face] * quarter + x - y) % (8 * quarter)


def _lat_lon(nside: int, face: Ints, x: Ints, y: Ints) -> tuple[Floats, Floats]:
    """Pixel centres in degrees."""
    row, quarter, halves = _ring(nside, face, x, y)
    return _row_latitudes(nside)[row - 1], 45.0 * halves / quarter


def _row_latitudes(nside: int) -> Floats:
    """Latitude of each of the ``4 · nside − 1`` rows, north to south, symmetric to the bit."""
    # 1 − sin(lat) = row² / (3 nside²) in the cap, as a half angle that keeps its digits at the pole
    cap = 90.0 - np.degrees(2.0 * np.arcsin(np.arange(1, nside) / (nside * np.sqrt(6.0))))
    belt = np.degrees(np.arcsin(np.arange(nside, 0, -1) * (2.0 / (3 * nside))))
    north = np.concatenate((cap, belt))
    return np.concatenate((north, [0.0], -north[::-1]))


def _spread_bits(values: Ints) -> Ints:
    """Bit i of each value moved to bit 2 i."""
    for shift, mask in _SPREADING:
        values = (values | (values << shift)) & mask
    return values


def _even_bits(values: Ints) -> Ints:
    """Bit 2 i of each value moved to bit i, the odd bits dropped."""
    values = values & 0x5555555555555555
    for shift, mask in _GATHERING:
        values = (values | (values >> shift)) & mask
    return values


_SPREADING = (
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)
_GATHERING = (
    (1, 0x3333333333333333),
    (2, 0x0F0F0F0F0F0F0F0F),
    (4, 0x00FF00FF00FF00FF),
    (8, 0x0000FFFF0000FFFF),
    (16, 0x00000000FFFFFFFF),
)
