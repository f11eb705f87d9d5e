"""Learning to segment and to estimate depth: a few steps beat what needs no looking."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import geoattn as ga
from geoattn.models import Transformer, TransformerConfig
from geoattn.tasks.panoramas import RenderedRooms

pytest.importorskip("lightning", reason="the tasks train with Lightning")

from geoattn.tasks.depth import DepthEstimation, DepthScores, RowMean
from geoattn.tasks.panoramas.robustness import rotation_robustness, score
from geoattn.tasks.segmentation import ClassPrior, Segmentation, SegmentationScores, class_weights
from geoattn.training import Data, FitConfig, fit

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


def score_of(predict, batches, truth, scores):
    return score({"it": predict}, batches, truth, lambda: scores(GRID))["it"]


CONFIG = FitConfig(steps=160, validate_every=80, learning_rate=1e-2, accelerator="cpu")


def test_a_short_training_of_segmentation_beats_the_priors(rooms, tmp_path):
    torch.manual_seed(0)
    task = Segmentation(network(13), GRID, CONFIG)
    rounds = fit(task, Data(rooms["train"], rooms["val"], CONFIG), tmp_path, CONFIG)
    assert [row["step"] for row in rounds] == [80, 160]
    batches = list(DataLoader(rooms["test"], batch_size=8))
    tested = score_of(task.eval().predict, batches, "label", SegmentationScores)
    validated = score_of(task.predict, DataLoader(rooms["val"]), "label", SegmentationScores)
    assert rounds[-1]["val_area_mean_iou"] == pytest.approx(validated["area_mean_iou"], rel=1e-5)
    labels = [sample["label"] for sample in rooms["train"]]
    for by_row in (False, True):
        prior = score_of(ClassPrior(GRID, labels, by_row), batches, "label", SegmentationScores)
        assert tested["area_accuracy"] > prior["area_accuracy"]


def test_a_short_training_of_depth_beats_the_row_mean(rooms, tmp_path):
    torch.manual_seed(0)
    task = DepthEstimation(network(1), GRID, CONFIG)
    rounds = fit(task, Data(rooms["train"], rooms["val"], CONFIG), tmp_path, CONFIG)
    assert rounds[1]["val_area_abs_rel"] < rounds[0]["val_area_abs_rel"]
    batches = list(DataLoader(rooms["test"], batch_size=8))
    tested = score_of(task.eval().predict, batches, "depth", DepthScores)
    mean = RowMean(GRID, (sample["depth"] for sample in rooms["train"]))
    trivial = score_of(mean, batches, "depth", DepthScores)
    assert tested["area_abs_rel"] < trivial["area_abs_rel"]


def test_a_loss_that_is_not_finite_stops_with_the_names_of_the_samples(rooms):
    task = DepthEstimation(network(1), GRID, CONFIG)
    torch.nn.init.constant_(task.network.decoder.projection.bias, torch.nan)
    with pytest.raises(FloatingPointError, match="on train room 0 of seed 0, train room 1 of seed 0"):
        task.training_step(next(iter(DataLoader(rooms["train"], batch_size=2))), 0)


def test_class_weights_enter_the_loss(rooms):
    weights = class_weights(GRID, (sample["label"] for sample in rooms["train"]))
    batch = next(iter(DataLoader(rooms["train"], batch_size=4)))
    output = torch.randn(4, 13, 8, 16)
    plain, weighted = (
        Segmentation(network(13), GRID, CONFIG),
        Segmentation(network(13), GRID, CONFIG, weights),
    )
    doubled = Segmentation(network(13), GRID, CONFIG, torch.full((13,), 2.0))
    base = plain.loss(output, batch["label"])
    torch.testing.assert_close(doubled.loss(output, batch["label"]), 2 * base)
    assert not torch.isclose(weighted.loss(output, batch["label"]), base)
    assert "weights" in weighted.state_dict()


def test_robustness_is_measured_on_the_same_scenes_at_both_signs_of_pitch_and_roll():
    seen = []

    def scenes(pitch, roll):
        seen.append((pitch, roll))
        return RenderedRooms(GRID, 2, "test", pitch=pitch, roll=roll)

    upright = RenderedRooms(GRID, 32, "train")
    mean = RowMean(GRID, (sample["depth"] for sample in upright))
    curves = rotation_robustness({"mean": mean}, scenes, [0.0, 45.0], "depth", lambda: DepthScores(GRID))
    curve = curves["mean"]
    assert seen == [(0.0, 0.0), (-45.0, 0.0), (0.0, -45.0), (0.0, 45.0), (45.0, 0.0)]
    assert curve["angle"] == [0.0, 45.0]
    assert curve["area_abs_rel"][1] > curve["area_abs_rel"][0]  # rows no longer are what they were
    assert np.isfinite(curve["rmse"]).all()
