"""The commands: their names, a sentence about each, and where they are."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command; its module has ``arguments(parser)`` and ``run(options) -> int``, the exit status."""

    #: of ``geoattn.commands``
    module: str
    help: str
    #: whether the module parses by itself what follows the name, ``options.rest``; then it also has
    #: ``actions(options)``, the options that these words have
    takes_rest: bool = False


COMMANDS: dict[str, Command] = {
    "demo": Command("demo", "simulate shallow water, train a transformer, forecast, draw"),
    "inspect": Command("inspect", "say what is in a store, and what of it would be refused"),
    "statistics": Command("statistics", "take mean, spread and range of every channel of stores"),
    "train": Command(
        "train", "train a model for a task, or a forecaster for your own store", takes_rest=True
    ),
    "evaluate": Command("evaluate", "score and draw a trained model", takes_rest=True),
    "forecast": Command("forecast", "forecast from a store into a new zarr store"),
    "score": Command("score", "score forecasts against the truth, as a table and a picture"),
    "regrid": Command("regrid", "write stores on another grid"),
    "plot": Command("plot", "draw a map, a series or a spectrum of a store"),
    "grids": Command("grids", "list the catalogue of named grids"),
    "models": Command("models", "list the sizes of the models with the numbers of their parameters"),
    "doctor": Command(
        "doctor", "say what is installed and what would run, and test whether it computes right"
    ),
    "cache": Command("cache", "list what is kept on disk between programs, or delete it"),
    "backends": Command("backends", "say which backends can run here, and why others cannot"),
}
