"""Relations: a small number for each edge of a neighborhood, by which a table of biases is looked up.

A relation of your own extends :class:`Relation`, names its kind, and gives ``count`` and ``numbers``.
"""

from geoattn.relations.base import Along, NumberedRows, Relation
from geoattn.relations.labels import edges, labels

__all__ = ["Along", "NumberedRows", "Relation", "edges", "labels"]
