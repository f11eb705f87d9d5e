"""Stores on disk, read piece by piece: chunks, times, windows for training."""
