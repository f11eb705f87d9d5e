"""Plans: neighborhoods laid out for a machine."""

from geoattn.plans.base import Plan

__all__ = ["Plan"]
