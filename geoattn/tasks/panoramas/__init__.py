"""Panoramas of rooms, rendered or photographed, on any grid of the sphere."""

from geoattn.tasks.panoramas.areas import area_mean, area_of, rows_of
from geoattn.tasks.panoramas.classes import CLASSES, COLORS, LEGEND, NO_DEPTH, UNLABELLED
from geoattn.tasks.panoramas.rendering.camera import Camera
from geoattn.tasks.panoramas.rendering.render import Panorama, render, render_rooms
from geoattn.tasks.panoramas.rendering.rooms import Room, random_room
from geoattn.tasks.panoramas.samples import RenderedRooms, Sample, sample_of
from geoattn.tasks.panoramas.stanford import Stanford2D3DS

__all__ = [
    "CLASSES",
    "LEGEND",
    "COLORS",
    "NO_DEPTH",
    "UNLABELLED",
    "Camera",
    "Panorama",
    "RenderedRooms",
    "Room",
    "Sample",
    "Stanford2D3DS",
    "area_mean",
    "area_of",
    "random_room",
    "render",
    "render_rooms",
    "rows_of",
    "sample_of",
]
