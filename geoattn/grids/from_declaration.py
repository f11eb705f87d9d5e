"""HEALPix grids that a file declares by attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from geoattn.grids.coordinates import POINTS_CALL, Match, Source
from geoattn.grids.coverage import RegionError
from geoattn.grids.healpix import HEALPix, healpix


def from_declaration(source: Source, declaration: str, attrs: dict[str, Any]) -> Match:
    """The HEALPix grid of CF 1.13's grid mapping, or of the attribute names in use before it."""
    nside = attrs.get("healpix_nside", attrs.get("nside"))
    level = attrs.get("refinement_level", attrs.get("level"))
    if level is not None:
        nside = 2 ** int(level)
    if nside is None:
        raise ValueError(
            f"{declaration!r} declares a HEALPix grid without refinement_level or healpix_nside; "
            f"it has {attrs}. Construct it: ga.grids.healpix(nside, order)"
        )
    order = str(attrs.get("indexing_scheme", attrs.get("healpix_order", attrs.get("order", ""))))
    order = {"nest": "nested"}.get(order, order)
    if order not in ("nested", "ring"):
        raise ValueError(
            f"{declaration!r} declares HEALPix indices of scheme {order!r}, but grids are in 'nested' or "
            f"'ring' order. Reorder the cells, then ga.grids.healpix({nside}, 'nested')"
        )
    grid = healpix(int(nside), order)
    return Match(grid, (_healpix_dimension(source, declaration, grid),), "equal areas", 0.0, 0.0)


def _healpix_dimension(source: Source, declaration: str, grid: HEALPix) -> str:
    """The dimension of the pixels, all of them there and in order."""
    indices = list(source.with_standard_name("healpix_index"))
    indices += [n for n in (declaration, "cell_ids", "healpix_index") if n in source.variables]
    for name in indices:
        variable = source.variables[name]
        if len(variable.dims) != 1:
            continue
        cells = np.asarray(variable.values)
        dim = str(variable.dims[0])
        if np.array_equal(cells, np.arange(grid.size)):
            return dim
        if len(cells) == grid.size and np.array_equal(np.sort(cells), np.arange(grid.size)):
            raise ValueError(
                f"the pixels of {name!r} are not in {grid.order} order. Sort them first: ds.sortby({name!r})"
            )
        raise RegionError(
            f"{name!r} holds {len(cells)} of the {grid.size} pixels of {grid!r}: a region. "
            f"For a region give every point and its area: {POINTS_CALL}"
        )
    fitting = [dim for dim, size in source.sizes.items() if size == grid.size]
    if len(fitting) != 1:
        raise ValueError(
            f"{declaration!r} declares {grid!r}, but {len(fitting) or 'no'} dimensions have that size: "
            f"{source.sizes}. Say which are the pixels by a coordinate with standard_name 'healpix_index'"
        )
    return fitting[0]
