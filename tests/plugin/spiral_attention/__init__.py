"""Attention on a spiral around the sphere: a grid, a pattern, a position scheme and a backend for geoattn."""
