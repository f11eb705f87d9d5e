"""Units as files spell them: which mean the same, and how to get from one to another."""

from __future__ import annotations

import re

#: spellings of whole units, compared in lower case, and the one that stands for them
_NAMES = {
    "kelvin": "K",
    "degrees_kelvin": "K",
    "deg_k": "K",
    "degk": "K",
    "celsius": "degC",
    "degree_celsius": "degC",
    "degrees_celsius": "degC",
    "deg_c": "degC",
    "degc": "degC",
    "°c": "degC",
    "pascal": "Pa",
    "pascals": "Pa",
    "pa": "Pa",
    "hpa": "hPa",
    "mb": "hPa",
    "mbar": "hPa",
    "millibar": "hPa",
    "millibars": "hPa",
    "meter": "m",
    "meters": "m",
    "metre": "m",
    "metres": "m",
    "millimeter": "mm",
    "millimeters": "mm",
    "millimetre": "mm",
    "millimetres": "mm",
    "second": "s",
    "seconds": "s",
    "sec": "s",
    "hour": "h",
    "hours": "h",
    "hr": "h",
    "hrs": "h",
    "day": "d",
    "days": "d",
    "percent": "%",
    "(0 - 1)": "1",
    "(0-1)": "1",
    "fraction": "1",
    "dimensionless": "1",
    "~": "1",
}
#: (from, to) → factor and what is added after it
_CONVERSIONS = {
    ("degC", "K"): (1.0, 273.15),
    ("hPa", "Pa"): (100.0, 0.0),
    ("km", "m"): (1000.0, 0.0),
    ("mm", "m"): (0.001, 0.0),
    ("cm", "m"): (0.01, 0.0),
    ("%", "1"): (0.01, 0.0),
    ("g kg-1", "1"): (0.001, 0.0),
}
_FACTOR = re.compile(r"(/?)\s*([^\W\d]+|%|1)\s*(?:\*\*|\^)?\s*([-+]?\d+)?\s*[*.·]?\s*")


def same_units(one: str, other: str) -> bool:
    """Whether two spellings mean the same: ``"m/s"`` and ``"m s**-1"`` do. An empty one says nothing."""
    return not one or not other or _canonical(one) == _canonical(other)


def check_units(name: str, found: str, wanted: str, here: str, there: str, call: str = "") -> None:
    """Refuse a variable in other units.

    Parameters
    ----------
    name
        Of the variable.
    found, wanted
        Its units, and those that it must have; an empty one says nothing.
    here, there
        Who has the one and who has the other, such as ``"the data set"`` and ``"the schema"``.
    call
        What the variable is called where it was given, ``ds['…']`` if empty.

    Raises
    ------
    ValueError
        Naming both, and the conversion where it is known.
    """
    if same_units(found, wanted):
        return
    variable = call or f"ds[{name!r}]"
    raise ValueError(
        f"{name!r} is in {found!r} in {here}, but in {wanted!r} in {there}: convert it, {variable} = "
        f"({_converted(variable, found, wanted)}).assign_attrs(units={wanted!r}); if only the attribute is "
        f"wrong, {variable}.attrs['units'] = {wanted!r}"
    )


def _converted(variable: str, found: str, wanted: str) -> str:
    """The expression that converts the variable, as far as it is known."""
    pair = _canonical(found), _canonical(wanted)
    if pair in _CONVERSIONS:
        factor, offset = _CONVERSIONS[pair]
        steps = f" * {factor:g}" * (factor != 1) + f" + {offset:g}" * (offset != 0)
    elif pair[::-1] in _CONVERSIONS:
        factor, offset = _CONVERSIONS[pair[::-1]]
        steps = f" - {offset:g}" * (offset != 0) + f" / {factor:g}" * (factor != 1)
    else:
        return "…"
    return f"{variable}{steps}"


def _canonical(units: str) -> str:
    """One spelling of all that mean the same, as far as they are known."""
    text = units.strip()
    if text.lower() in _NAMES:
        return _NAMES[text.lower()]
    factors: dict[str, int] = {}
    place = 0
    while place < len(text):
        match = _FACTOR.match(text, place)
        if match is None:
            return text  # no product of powers: it means itself alone
        divided, name, power = match.groups()
        name = _NAMES.get(name.lower(), name)
        factors[name] = factors.get(name, 0) + int(power or 1) * (-1 if divided else 1)
        place = match.end()
    kept = sorted((name, power) for name, power in factors.items() if power and name != "1")
    return " ".join(name if power == 1 else f"{name}{power}" for name, power in kept) or "1"
