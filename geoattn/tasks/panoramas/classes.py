"""The thirteen classes of 2D-3D-S, and the marks of what is missing."""

from __future__ import annotations

from geoattn.plot import Legend

#: in alphabetical order, which is the order of published results
CLASSES = (
    "beam",
    "board",
    "bookcase",
    "ceiling",
    "chair",
    "clutter",
    "column",
    "door",
    "floor",
    "sofa",
    "table",
    "wall",
    "window",
)

#: label of a pixel without a class
UNLABELLED = 255

#: depth in metres of a pixel without a measured depth
NO_DEPTH = 0.0

#: RGB of each class in pictures
COLORS = (
    (241, 255, 82),
    (102, 168, 226),
    (0, 255, 0),
    (190, 190, 200),
    (255, 0, 128),
    (40, 40, 40),
    (156, 80, 40),
    (200, 120, 255),
    (110, 85, 70),
    (255, 120, 90),
    (0, 120, 120),
    (225, 220, 200),
    (60, 220, 240),
)

#: how pictures name and colour them
LEGEND = Legend(CLASSES, COLORS, UNLABELLED)
