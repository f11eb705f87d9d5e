"""Relations: a small number for each edge of a neighborhood, by which a table of biases is looked up.

A relation of your own extends :class:`Relation`, names its kind, and gives ``count`` and ``numbers``.
"""

from geoattn.relations.angles import angles
from geoattn.relations.base import Along, NumberedRows, Relation
from geoattn.relations.labels import edges, labels
from geoattn.relations.offsets import offsets
from geoattn.relations.product import product

__all__ = ["Along", "NumberedRows", "Relation", "angles", "edges", "labels", "offsets", "product"]
