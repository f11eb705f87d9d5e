"""HEALPix pixel maths against the ``healpix`` package and against its own symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga
from geoattn.grids.healpix import face_to_nested, face_to_ring, nested_to_face, ring_to_face

witness = pytest.importorskip("healpix", reason="needs the healpix package as an independent witness")


@pytest.mark.parametrize("nside", [1, 2, 4, 8, 32, 128])
def test_orders_convert_as_the_witness_does(nside):
    pixels = np.arange(12 * nside**2)
    np.testing.assert_array_equal(ga.grids.nested_to_ring(nside, pixels), witness.nest2ring(nside, pixels))
    np.testing.assert_array_equal(ga.grids.ring_to_nested(nside, pixels), witness.ring2nest(nside, pixels))


@pytest.mark.parametrize(
    ("nside", "order"),
    [(n, "ring") for n in (1, 2, 3, 5, 8, 12, 31, 64, 100)] + [(n, "nested") for n in (1, 2, 8, 64)],
)
def test_pixel_centres_are_those_of_the_witness(nside, order):
    grid = ga.grids.healpix(nside, order=order)
    lon, lat = witness.pix2ang(nside, np.arange(grid.size), nest=order == "nested", lonlat=True)
    np.testing.assert_allclose(grid.lat, lat, atol=1e-10)
    np.testing.assert_allclose(grid.lon, lon % 360.0, atol=1e-10)


@settings(max_examples=200, deadline=None)
@given(level=st.integers(0, 24), data=st.data())
def test_numbers_survive_the_way_through_faces_at_any_resolution(level, data):
    nside = 1 << level
    ends = [0, 12 * nside**2 - 1, 2 * nside * (nside - 1), 12 * nside**2 - 2 * nside * (nside - 1) - 1]
    pixels = np.array([*ends, *data.draw(st.lists(st.integers(0, 12 * nside**2 - 1), max_size=20))])
    for face, x, y in (nested_to_face(nside, pixels), ring_to_face(nside, pixels)):
        assert ((face >= 0) & (face < 12)).all()
        assert ((x >= 0) & (x < nside) & (y >= 0) & (y < nside)).all()
    np.testing.assert_array_equal(face_to_nested(nside, *nested_to_face(nside, pixels)), pixels)
    np.testing.assert_array_equal(face_to_ring(nside, *ring_to_face(nside, pixels)), pixels)


def test_conversion_keeps_the_shape_of_what_it_is_given():
    assert ga.grids.nested_to_ring(2, [[0, 1, 2], [3, 4, 47]]).shape == (2, 3)
    assert int(ga.grids.ring_to_nested(1, 11)) == 11


@pytest.mark.parametrize("convert", [ga.grids.nested_to_ring, ga.grids.ring_to_nested])
def test_impossible_pixel_numbers_are_refused(convert):
    with pytest.raises(ValueError, match="pixel 48 is not among the 48 pixels of nside 2"):
        convert(2, [0, 48])
    with pytest.raises(ValueError, match="pixel -1 is not among"):
        convert(2, -1)
    with pytest.raises(ValueError, match="power of two, got 3"):
        convert(3, [0])
    with pytest.raises(TypeError, match="pixel numbers must be integers, got float64"):
        convert(2, [0.5])


def test_ring_pixels_run_from_north_to_south_and_eastward():
    grid = ga.grids.healpix(16, order="ring")
    assert (np.diff(grid.lat) <= 1e-12).all()
    assert (np.diff(grid.lon)[np.abs(np.diff(grid.lat)) < 1e-12] > 0).all()


def test_siblings_of_a_nested_pixel_share_its_parent_s_place():
    fine, coarse = ga.grids.healpix(16), ga.grids.healpix(8)
    means = fine.xyz.reshape(-1, 4, 3).mean(axis=1)
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    angle = np.degrees(np.arccos(np.clip((means * coarse.xyz).sum(-1), -1, 1)))
    assert angle.max() < 1.5  # a coarse pixel is about 7° wide


def test_pixels_have_equal_area():
    np.testing.assert_allclose(ga.grids.healpix(8).weights, 4 * np.pi / 768, rtol=1e-15)
