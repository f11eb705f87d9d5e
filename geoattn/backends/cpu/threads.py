"""The threads that kernels run on: those of :mod:`geoattn._threads`."""

from geoattn._threads import run as run
