"""Whole models, and how they are stored."""

from geoattn.models.base import Model
from geoattn.models.checkpoint import load, save
from geoattn.models.config import ModelConfig
from geoattn.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from geoattn.models.sizes import ENCODER_DECODER_SIZES, TRANSFORMER_SIZES, parameter_count
from geoattn.models.transformer import Transformer, TransformerConfig

__all__ = [
    "ENCODER_DECODER_SIZES",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "Model",
    "ModelConfig",
    "TRANSFORMER_SIZES",
    "Transformer",
    "TransformerConfig",
    "load",
    "parameter_count",
    "save",
]
