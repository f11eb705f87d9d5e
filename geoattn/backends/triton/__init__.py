"""Kernels in Triton: block-sparse attention on the matrix units of any GPU that Triton knows."""

from geoattn.backends.triton.backend import Triton

__all__ = ["Triton"]
