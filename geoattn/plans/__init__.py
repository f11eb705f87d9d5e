"""Plans: neighborhoods laid out for a machine."""

from geoattn.plans.base import Plan
from geoattn.plans.builder import build
from geoattn.plans.expand import edges

__all__ = ["Plan", "build", "edges"]
