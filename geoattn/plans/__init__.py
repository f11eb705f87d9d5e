"""Plans: neighborhoods laid out for a machine."""

from geoattn.plans.base import LanePlan, NumberedLanePlan, NumberedTilePlan, Plan, TilePlan
from geoattn.plans.builder import build
from geoattn.plans.cache import (
    clear,
    clears,
    lane_plan,
    numbered_plan,
    numbered_tile_plan,
    plan,
    tile_plan,
)
from geoattn.plans.cost import Statistics, estimate, statistics
from geoattn.plans.expand import edges
from geoattn.plans.padding import full_beside_padding

__all__ = [
    "LanePlan",
    "NumberedLanePlan",
    "NumberedTilePlan",
    "Plan",
    "Statistics",
    "TilePlan",
    "build",
    "clear",
    "clears",
    "edges",
    "estimate",
    "full_beside_padding",
    "lane_plan",
    "numbered_plan",
    "numbered_tile_plan",
    "plan",
    "statistics",
    "tile_plan",
]
