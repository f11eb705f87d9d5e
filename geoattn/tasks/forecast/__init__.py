"""Forecasting a store of one's own: any grid, any names; training, forecasts and scores in one folder."""
