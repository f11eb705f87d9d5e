"""Segmentation as a kind of task on panoramas."""

from __future__ import annotations

from torch import nn
from torch.utils.data import Dataset

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.classes import CLASSES
from geoattn.tasks.panoramas.evaluation import Kind
from geoattn.tasks.panoramas.samples import Sample, entries
from geoattn.tasks.segmentation.baselines import ClassPrior
from geoattn.tasks.segmentation.learning import Segmentation
from geoattn.tasks.segmentation.metrics import SegmentationScores
from geoattn.tasks.segmentation.pictures import colours_of, segmentation_picture


def _trivial(grid: SphericalGrid, train: Dataset[Sample]) -> dict[str, nn.Module]:
    labels = list(entries(train, "label"))
    return {
        "class prior": ClassPrior(grid, labels),
        "class prior by row": ClassPrior(grid, labels, by_row=True),
    }


SEGMENTATION = Kind(
    name="segmentation",
    channels=len(CLASSES),
    module=Segmentation,
    scores=SegmentationScores,
    trivial=_trivial,
    picture=segmentation_picture,
    shown=lambda label: colours_of(label.cpu().numpy()),
    headline="area_mean_iou",
)
