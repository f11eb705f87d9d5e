"""Whole models, and how they are stored."""

from geoattn.models.checkpoint import load, save
from geoattn.models.config import ModelConfig
from geoattn.models.transformer import Transformer, TransformerConfig

__all__ = ["ModelConfig", "Transformer", "TransformerConfig", "load", "save"]
