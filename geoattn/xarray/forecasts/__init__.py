"""Forecasts: a network made to step fields, and its rollout from store to store."""
