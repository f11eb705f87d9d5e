"""What the numbers of an array are: real ones, decoded, and no labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

#: attributes of stored numbers that decoding takes away
PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value")
#: attributes and endings of standard names that tell labels
FLAGS = ("flag_values", "flag_masks", "flag_meanings")
LABELS = ("area_type", "status_flag", "land_cover_lccs")


def check_numbers(array: Any, call: str) -> None:
    """Refuse an array that holds no real numbers, or the packed ones of a file in place of those meant.

    Parameters
    ----------
    array
        DataArray.
    call
        What it is called where it was given, such as ``ds['t']``.

    Raises
    ------
    ValueError
        Naming the dtype or the packing, and the call that makes numbers of them.
    """
    if array.dtype.kind not in "biuf":
        numbers = f"{call}.real" if array.dtype.kind == "c" else f"{call}.astype(float)"
        raise ValueError(
            f"{call} holds {array.dtype}, not real numbers: make some of them, {numbers}, or leave it out"
        )
    if packed := {key: array.attrs[key] for key in PACKING if _says(key, array.attrs)}:
        owner, _, name = call.partition("[")
        decoded = decoding(owner, of_array=not name)
        named = ", ".join(f"{key} {value}" for key, value in packed.items())
        raise ValueError(
            f"{call} holds numbers as a file stores them, with {named} yet to be applied: decode them, "
            f"{decoded}"
        )


def decoding(call: str, of_array: bool) -> str:
    """The statement that decodes a Dataset or DataArray by the attributes of its variables."""
    if of_array:
        return f"{call} = xarray.decode_cf({call}.to_dataset(name='…'))['…']"
    return f"{call} = xarray.decode_cf({call})"


def _says(key: str, attributes: Mapping[str, Any]) -> bool:
    """Whether an attribute of packing says anything: a fill value that is NaN does not."""
    value = attributes.get(key)
    if value is None or isinstance(value, str):
        return value is not None
    return not (key in PACKING[2:] and bool(np.isnan(np.asarray(value, float)).all()))


def refuse_labels(array: Any, call: str, remedy: str) -> None:
    """Refuse an array whose attributes say that its numbers stand for classes; where one is, is no label.

    Raises
    ------
    ValueError
        With the ``remedy``.
    """
    flags = [key for key in FLAGS if key in array.attrs]
    standard = str(array.attrs.get("standard_name", ""))
    if array.dtype.kind != "b" and (flags or standard.endswith(LABELS)):
        why = "flag values" if flags else f"the standard name {standard!r}"
        raise ValueError(
            f"{call} has {why}: its numbers are labels, whose average is another label. {remedy}"
        )
