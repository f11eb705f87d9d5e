"""Arguments come in one order everywhere: queries before keys, windows as NATTEN writes them."""

import importlib
import inspect
import pkgutil

import pytest

import geoattn as ga

PACKAGES = ["grids", "neighborhoods", "nn", "models"]


def functions():
    """Every function and constructor of the lower floors, by its full name."""
    found = {}
    for package in PACKAGES:
        root = importlib.import_module(f"geoattn.{package}")
        for info in pkgutil.walk_packages(root.__path__, f"geoattn.{package}."):
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                own = getattr(value, "__module__", None) == info.name
                if own and (inspect.isfunction(value) or inspect.isclass(value)):
                    found[f"{info.name}.{name}"] = value
    return found


FUNCTIONS = functions()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_query_grid_comes_before_the_key_grid(name):
    try:
        parameters = list(inspect.signature(FUNCTIONS[name]).parameters)
    except (TypeError, ValueError):  # named tuples and the like of other makers
        return
    dispatching = name.rsplit(".", 1)[1] in (
        "_",
        "_interpolation_from",
        "_average_from",
    )  # they dispatch on their first
    for query, key in (("query_grid", "key_grid"), ("q", "k"), ("queries", "keys"), ("query", "key")):
        if query in parameters and key in parameters and not dispatching:
            assert parameters.index(query) < parameters.index(key), parameters


def test_regridding_says_source_and_target():
    from geoattn.xarray.regrid import Regridder

    assert list(inspect.signature(Regridder).parameters)[:2] == ["source", "target"]


def test_window_takes_its_parameters_in_the_order_of_natten():
    order = ["grid", "size", "stride", "dilation", "causal", "offset", "boundary"]
    assert list(inspect.signature(ga.window).parameters)[: len(order)] == order
    grid = ga.grids.cartesian(12)
    assert ga.window(grid, 3, 2, 4) == ga.window(grid, 3, stride=2, dilation=4)
