"""Attention on a spiral around the sphere: a grid, a pattern, a relation, a position scheme, a backend."""
