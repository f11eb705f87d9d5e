"""Backends: the ways to run the operator."""
