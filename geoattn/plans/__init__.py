"""Plans: neighborhoods laid out for a machine."""

from geoattn.plans.base import Plan
from geoattn.plans.builder import build
from geoattn.plans.cache import plan
from geoattn.plans.cost import Statistics, estimate, statistics
from geoattn.plans.expand import edges

__all__ = ["Plan", "Statistics", "build", "edges", "estimate", "plan", "statistics"]
