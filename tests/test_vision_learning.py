"""Learning to segment and to estimate depth: a few steps beat what needs no looking."""

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import geoattn as ga
from geoattn.models import Transformer, TransformerConfig
from geoattn.tasks.panoramas import RenderedRooms

lightning = pytest.importorskip("lightning", reason="the tasks train with Lightning")

from geoattn.tasks.depth import DepthEstimation, DepthScores, RowMean  # noqa: E402
from geoattn.tasks.panoramas.learning import PanoramaData  # noqa: E402
from geoattn.tasks.panoramas.robustness import rotation_robustness, score  # noqa: E402
from geoattn.tasks.segmentation import ClassPrior, Segmentation, SegmentationScores, class_weights  # noqa: E402

GRID = ga.grids.equiangular(8, 16, poles=False)


def network(channels):
    hood = ga.geodesic(GRID, radius=50.0)
    config = TransformerConfig(GRID, (hood,), 3, channels, dim=16, depth=1, num_heads=2, residual=False)
    return Transformer(config)


@pytest.fixture(scope="module")
def rooms():
    return {
        split: RenderedRooms(GRID, count, split) for split, count in (("train", 64), ("val", 8), ("test", 16))
    }


def fit(task, rooms, steps):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = PanoramaData(rooms["train"], rooms["val"], rooms["test"], batch_size=8)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, data)
    validated = dict(trainer.callback_metrics)
    return validated, trainer.test(task, data, verbose=False)[0]


@pytest.mark.filterwarnings("ignore")
def test_a_short_training_of_segmentation_beats_the_priors(rooms):
    torch.manual_seed(0)
    task = Segmentation(network(13), GRID, learning_rate=1e-2, steps=60)
    validated, tested = fit(task, rooms, 60)
    assert torch.isfinite(validated["val_area_mean_iou"])
    labels = [sample["label"] for sample in rooms["train"]]
    batches = list(DataLoader(rooms["test"], batch_size=8))
    for by_row in (False, True):
        prior = score(ClassPrior(GRID, labels, by_row), batches, "label", SegmentationScores(GRID))
        assert tested["test_area_accuracy"] > prior["area_accuracy"]
    again = score(task.eval().predict, batches, "label", SegmentationScores(GRID))
    assert again["area_mean_iou"] == pytest.approx(tested["test_area_mean_iou"], rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_short_training_of_depth_beats_the_row_mean(rooms):
    torch.manual_seed(0)
    task = DepthEstimation(network(1), GRID, learning_rate=1e-2, steps=60)
    _, tested = fit(task, rooms, 60)
    mean = RowMean(GRID, (sample["depth"] for sample in rooms["train"]))
    trivial = score(mean, DataLoader(rooms["test"], batch_size=8), "depth", DepthScores(GRID))
    assert tested["test_area_abs_rel"] < trivial["area_abs_rel"]


def test_a_loss_that_is_not_finite_stops_with_the_names_of_the_samples(rooms):
    task = DepthEstimation(network(1), GRID)
    torch.nn.init.constant_(task.network.decoder.projection.bias, torch.nan)
    with pytest.raises(FloatingPointError, match="on train room 0 of seed 0, train room 1 of seed 0"):
        task.training_step(next(iter(DataLoader(rooms["train"], batch_size=2))), 0)


def test_class_weights_enter_the_loss(rooms):
    weights = class_weights(GRID, (sample["label"] for sample in rooms["train"]))
    batch = next(iter(DataLoader(rooms["train"], batch_size=4)))
    output = torch.randn(4, 13, 8, 16)
    plain, weighted = Segmentation(network(13), GRID), Segmentation(network(13), GRID, weights)
    doubled = Segmentation(network(13), GRID, torch.full((13,), 2.0))
    base = plain.loss(output, batch["label"])
    torch.testing.assert_close(doubled.loss(output, batch["label"]), 2 * base)
    assert not torch.isclose(weighted.loss(output, batch["label"]), base)
    assert "weights" in weighted.state_dict()


def test_testing_needs_a_data_set(rooms):
    with pytest.raises(ValueError, match="no data set for testing was given"):
        PanoramaData(rooms["train"], rooms["val"]).test_dataloader()


def test_robustness_is_measured_on_the_same_scenes_at_both_signs_of_pitch_and_roll():
    seen = []

    def scenes(pitch, roll):
        seen.append((pitch, roll))
        return RenderedRooms(GRID, 2, "test", pitch=pitch, roll=roll)

    upright = RenderedRooms(GRID, 32, "train")
    mean = RowMean(GRID, (sample["depth"] for sample in upright))
    curve = rotation_robustness(mean, scenes, [0.0, 45.0], "depth", lambda: DepthScores(GRID))
    assert seen == [(0.0, 0.0), (-45.0, 0.0), (0.0, -45.0), (0.0, 45.0), (45.0, 0.0)]
    assert curve["angle"] == [0.0, 45.0]
    assert curve["area_abs_rel"][1] > curve["area_abs_rel"][0]  # rows no longer are what they were
    assert np.isfinite(curve["rmse"]).all()
