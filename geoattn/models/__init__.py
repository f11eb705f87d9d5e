"""Whole models."""

from geoattn.models.transformer import Transformer, TransformerConfig

__all__ = ["Transformer", "TransformerConfig"]
