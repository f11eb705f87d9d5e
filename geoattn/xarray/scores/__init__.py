"""Scores of forecasts against the truth."""
