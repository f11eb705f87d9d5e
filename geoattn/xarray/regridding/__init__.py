"""Operators from grid to grid: their weights by method, how they are applied, and their files."""
