"""Scores, losses and trivial predictors of segmentation and depth, against independent oracles."""

import math

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.tasks.panoramas import CLASSES, UNLABELLED, area_mean, area_of, rows_of

pytest.importorskip("lightning", reason="the tasks train with Lightning")
torchmetrics = pytest.importorskip("torchmetrics", reason="scores are torchmetrics' Metric objects")

from geoattn.tasks.depth import DepthScores, RowMean, depth_loss, to_depth  # noqa: E402
from geoattn.tasks.segmentation import (  # noqa: E402
    ClassPrior,
    SegmentationScores,
    class_weights,
    segmentation_loss,
)

GRID = ga.grids.equiangular(6, 12, poles=False)
AREA = GRID.weights / (4 * np.pi)


def maps(count=4, classes=13, missing=0.1, seed=0):
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, (count, 6, 12))
    guess = np.where(random.random(truth.shape) < 0.5, truth, random.integers(0, classes, truth.shape))
    truth = np.where(random.random(truth.shape) < missing, UNLABELLED, truth)
    return torch.from_numpy(guess), torch.from_numpy(truth)


# segmentation ---------------------------------------------------------------------------------


def iou_by_sets(guess, truth, weight):
    """Mean IoU from the definition: weighted sets of pixels, all panoramas together."""
    known = truth != UNLABELLED
    ious = []
    for c in range(13):
        both = weight[known & (guess == c) & (truth == c)].sum()
        either = weight[known & ((guess == c) | (truth == c))].sum()
        if either > 0:
            ious.append(both / either)
    return np.mean(ious)


def test_scores_are_those_of_sets_over_the_whole_data_set():
    guess, truth = maps()
    scores = SegmentationScores(GRID)
    for g, t in zip(guess.split(1), truth.split(1), strict=True):
        scores.update(g, t)
    found = scores.compute()
    ones, area = np.ones(truth.shape), np.broadcast_to(AREA, truth.shape)
    assert float(found["mean_iou"]) == pytest.approx(iou_by_sets(guess.numpy(), truth.numpy(), ones))
    assert float(found["area_mean_iou"]) == pytest.approx(iou_by_sets(guess.numpy(), truth.numpy(), area))
    known, right = truth.numpy() != UNLABELLED, (guess == truth).numpy()
    recall = [right[truth.numpy() == c].mean() for c in range(13)]
    assert float(found["mean_accuracy"]) == pytest.approx(np.mean(recall))
    assert float(found["accuracy"]) == pytest.approx(right[known].mean())
    assert float(found["area_accuracy"]) == pytest.approx((right * area)[known].sum() / area[known].sum())


def test_by_pixels_torchmetrics_agrees():
    guess, truth = maps(8)
    scores = SegmentationScores(GRID)
    scores.update(guess, truth)
    jaccard = torchmetrics.JaccardIndex("multiclass", num_classes=13, ignore_index=UNLABELLED)
    accuracy = torchmetrics.Accuracy("multiclass", num_classes=13, ignore_index=UNLABELLED, average="macro")
    found = scores.compute()
    assert float(found["mean_iou"]) == pytest.approx(float(jaccard(guess, truth)))
    assert float(found["mean_accuracy"]) == pytest.approx(float(accuracy(guess, truth)))


def test_batches_and_class_scores_do_not_matter():
    guess, truth = maps()
    whole, parts = SegmentationScores(GRID), SegmentationScores(GRID)
    whole.update(guess, truth)
    one_hot = torch.nn.functional.one_hot(guess, 13).movedim(-1, 1).float()
    for g, t in zip(one_hot.split(3), truth.split(3), strict=True):
        parts.update(g, t)
    for name, value in whole.compute().items():
        torch.testing.assert_close(parts.compute()[name], value)


def test_a_class_that_never_occurs_does_not_count():
    truth = torch.zeros(1, 6, 12, dtype=torch.int64)
    scores = SegmentationScores(GRID)
    scores.update(truth, truth)
    assert all(float(v) == 1.0 for v in scores.compute().values())
    assert scores.per_class()["iou"].isnan().sum() == 12


def test_rows_near_the_poles_weigh_little_by_area():
    truth = torch.zeros(1, 6, 12, dtype=torch.int64)
    guess = truth.clone()
    guess[:, 0] = 1
    scores = SegmentationScores(GRID)
    scores.update(guess, truth)
    found = scores.compute()
    assert float(found["accuracy"]) == pytest.approx(5 / 6)
    assert float(found["area_accuracy"]) == pytest.approx(1 - AREA[0].sum())


def test_predictions_of_the_wrong_shape_and_empty_scores_are_refused():
    guess, truth = maps()
    with pytest.raises(ValueError, match=r"predicted \[4, 6, 11\] and truth \[4, 6, 12\] must both be"):
        SegmentationScores(GRID).update(guess[..., 1:], truth)
    nothing = SegmentationScores(GRID)
    nothing.update(guess, torch.full_like(truth, UNLABELLED))
    with pytest.raises(ValueError, match="no labelled pixel was given"):
        nothing.compute()


def test_the_loss_is_the_mean_cross_entropy_over_labelled_area():
    _, truth = maps(2)
    scores = torch.randn(2, 13, 6, 12, dtype=torch.float64, requires_grad=True)
    loss = segmentation_loss(scores, truth, area_of(GRID))
    entropy = -scores.log_softmax(1).detach().numpy()
    top = bottom = 0.0
    for b, i, j in np.ndindex(2, 6, 12):
        if truth[b, i, j] != UNLABELLED:
            top += AREA[i, j] * entropy[b, truth[b, i, j], i, j]
            bottom += AREA[i, j]
    assert loss.item() == pytest.approx(top / bottom)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.movedim(1, -1)[truth == UNLABELLED].abs().max() == 0


def test_what_is_not_valid_reaches_neither_mean_nor_gradient():
    values = torch.rand(2, 6, 12, dtype=torch.float64)
    valid = values > 0.3
    broken = torch.where(valid, values, torch.nan).requires_grad_()
    mean = area_mean(broken, valid, area_of(GRID))
    weight = torch.from_numpy(AREA.copy()) * valid
    torch.testing.assert_close(mean.detach(), (values * weight).sum() / weight.sum())
    mean.backward()
    assert torch.equal(broken.grad != 0, valid)


def test_the_class_prior_is_the_share_of_area():
    _, truth = maps()
    prior = ClassPrior(GRID, truth)
    share = prior(torch.zeros(2, 3, 6, 12)).softmax(1)
    assert share.shape == (2, 13, 6, 12)
    known = truth.numpy() != UNLABELLED
    area = np.broadcast_to(AREA, truth.shape)
    for c in range(13):
        expected = area[truth.numpy() == c].sum() / area[known].sum()
        np.testing.assert_allclose(share[:, c], expected, rtol=1e-4)


def test_the_prior_by_row_knows_the_floor_from_the_ceiling():
    truth = torch.full((2, 6, 12), CLASSES.index("wall"))
    truth[:, 0], truth[:, 5] = CLASSES.index("ceiling"), CLASSES.index("floor")
    truth[:, 3] = UNLABELLED
    guess = ClassPrior(GRID, list(truth), by_row=True)(torch.zeros(1, 3, 6, 12)).argmax(1)[0, :, 0]
    assert [CLASSES[c] for c in guess] == ["ceiling", "wall", "wall", "wall", "wall", "floor"]
    with pytest.raises(ValueError, match="a prior needs some"):
        ClassPrior(GRID, torch.full((1, 6, 12), UNLABELLED))


def test_class_weights_raise_rare_classes_to_a_mean_of_one():
    truth = torch.zeros(1, 6, 12, dtype=torch.int64)
    truth[0, :3, 0] = 5
    weights = class_weights(GRID, truth, power=1.0)
    share = float(AREA[:3, 0].sum())
    assert float(weights[5] / weights[0]) == pytest.approx((1 - share) / share, rel=1e-5)
    assert share * weights[5] + (1 - share) * weights[0] == pytest.approx(1.0)
    assert torch.equal(class_weights(GRID, truth, power=0.0), torch.ones(13))


# depth ----------------------------------------------------------------------------------------


def depths(count=3, seed=0):
    random = np.random.default_rng(seed)
    truth = random.uniform(0.5, 9.0, (count, 6, 12))
    guess = truth * random.uniform(0.5, 1.6, truth.shape)
    return guess, np.where(random.random(truth.shape) < 0.2, 0.0, truth)


def depth_oracle(guess, truth, weight):
    """Scores of one set of pixels, written out."""
    known = truth > 0
    g, t, w = guess[known].clip(0.1, 10), truth[known], weight[known]
    mean = lambda x: (w * x).sum() / w.sum()  # noqa: E731
    return {
        "abs_rel": mean(abs(g - t) / t),
        "mae": mean(abs(g - t)),
        "rmse": math.sqrt(mean((g - t) ** 2)),
        "rmse_log": math.sqrt(mean((np.log(g) - np.log(t)) ** 2)),
        **{f"delta_{n}": mean(np.maximum(g / t, t / g) < 1.25**n) for n in (1, 2, 3)},
    }


@pytest.mark.parametrize("average", ["images", "pixels"])
def test_depth_scores_are_their_definitions(average):
    guess, truth = depths()
    scores = DepthScores(GRID, average=average)
    scores.update(torch.from_numpy(guess[:2]), torch.from_numpy(truth[:2]))
    scores.update(torch.from_numpy(guess[2:]), torch.from_numpy(truth[2:]))
    found = scores.compute()
    area = np.broadcast_to(AREA, truth.shape)
    for prefix, weight in (("", np.ones(truth.shape)), ("area_", area)):
        if average == "pixels":
            expected = depth_oracle(guess, truth, weight)
        else:
            each = [depth_oracle(g, t, w) for g, t, w in zip(guess, truth, weight, strict=True)]
            expected = {name: np.mean([e[name] for e in each]) for name in each[0]}
        for name, value in expected.items():
            assert float(found[prefix + name]) == pytest.approx(value), prefix + name


def test_torchmetrics_agrees_where_it_has_the_score():
    guess, truth = (torch.from_numpy(d) for d in depths())
    scores = DepthScores(GRID, average="pixels", max_depth=20.0)
    scores.update(guess, truth)
    found, known = scores.compute(), truth > 0
    error = torchmetrics.functional.mean_squared_error(guess[known], truth[known], squared=False)
    assert float(found["rmse"]) == pytest.approx(float(error))
    error = torchmetrics.functional.mean_absolute_percentage_error(guess[known], truth[known])
    assert float(found["abs_rel"]) == pytest.approx(float(error))


def test_alignment_forgives_scale_and_only_scale():
    _, truth = (torch.from_numpy(d) for d in depths())
    aligned, plain = DepthScores(GRID, alignment="median", max_depth=20.0), DepthScores(GRID, max_depth=20.0)
    for scores in (aligned, plain):
        scores.update(1.7 * truth.clamp(min=0.5), truth)
    assert float(aligned.compute()["rmse"]) == pytest.approx(0.0, abs=1e-9)
    assert float(plain.compute()["abs_rel"]) == pytest.approx(0.7)


def test_depths_beyond_the_range_are_clipped_or_left_out():
    truth = torch.full((1, 6, 12), 4.0)
    guess = torch.full((1, 6, 12), 100.0)
    truth[0, 0] = 30.0  # beyond max_depth: does not count
    scores = DepthScores(GRID, max_depth=10.0)
    scores.update(guess, truth)
    assert float(scores.compute()["mae"]) == pytest.approx(6.0)


def test_depth_scores_refuse_what_cannot_be_scored():
    guess, truth = (torch.from_numpy(d) for d in depths())
    with pytest.raises(ValueError, match=r"predicted \[3, 12, 6\]"):
        DepthScores(GRID).update(guess.mT, truth)
    with pytest.raises(ValueError, match=r"panorama 1 of the batch has no depth between 0.1 and 10.0 m"):
        DepthScores(GRID).update(guess, truth * torch.tensor([1, 0, 1])[:, None, None])
    for one, other in ((guess * 1j, truth), (guess, truth > 1), (guess > 1, truth)):
        with pytest.raises(TypeError, match="must hold metres, real numbers, got torch"):
            DepthScores(GRID).update(one, other)
    with pytest.raises(TypeError, match="truth must be a tensor, got ndarray"):
        DepthScores(GRID).update(guess, truth.numpy())
    with pytest.raises(ValueError, match=r"max_depth < ∞, got 0\.1 and inf"):
        DepthScores(GRID, max_depth=math.inf)
    with pytest.raises(ValueError, match="a predicted depth is NaN or infinite"):
        DepthScores(GRID).update(guess * torch.nan, truth)
    with pytest.raises(ValueError, match="no depth was given"):
        DepthScores(GRID).compute()
    with pytest.raises(ValueError, match=r"got 5.0 and 1.0"):
        DepthScores(GRID, min_depth=5.0, max_depth=1.0)
    with pytest.raises(ValueError, match="alignment must be 'none' or 'median', got 'mean'"):
        DepthScores(GRID, alignment="mean")
    with pytest.raises(ValueError, match="average must be 'images' or 'pixels', got 'batch'"):
        DepthScores(GRID, average="batch")


def test_the_depth_loss_is_the_mean_error_of_the_logarithm():
    guess, truth = depths(1)
    output = torch.from_numpy(np.log(guess / 2.0)).requires_grad_()
    loss = depth_loss(output, torch.from_numpy(truth), area_of(GRID))
    known = truth > 0
    error = abs(np.log(guess[known] / truth[known]))
    weight = np.broadcast_to(AREA, truth.shape)[known]
    assert loss.item() == pytest.approx((error * weight).sum() / weight.sum())
    loss.backward()
    assert torch.equal(output.grad != 0, torch.from_numpy(known))
    np.testing.assert_allclose(to_depth(output.detach()), guess)


def test_the_row_mean_is_the_mean_of_each_row():
    _, truth = (torch.from_numpy(d) for d in depths())
    truth[:, 2] = 0.0  # a row without a depth takes the mean over all
    mean = RowMean(GRID, truth.split(2))(torch.zeros(5, 3, 6, 12))
    assert mean.shape == (5, 6, 12)
    for row in (0, 1, 3, 4, 5):
        known = truth[:, row][truth[:, row] > 0]
        np.testing.assert_allclose(mean[:, row], float(known.mean()), rtol=1e-6)
    weight = torch.from_numpy(AREA.copy()) * (truth > 0)
    np.testing.assert_allclose(mean[:, 2], float((truth * weight).sum() / weight.sum()), rtol=1e-6)
    with pytest.raises(ValueError, match="a mean needs some"):
        RowMean(GRID, torch.zeros(1, 6, 12))


def test_rows_are_points_of_equal_latitude_on_any_grid():
    assert np.array_equal(rows_of(GRID), np.broadcast_to(np.arange(6)[:, None], (6, 12)))
    nested = ga.grids.healpix(2)
    rows = rows_of(nested)
    assert rows.max() + 1 == 7
    for row in range(7):
        assert np.ptp(nested.lat[rows == row]) < 1e-9


@pytest.mark.parametrize("wrong", [-1, 13, 14, 254, 1000])
@pytest.mark.parametrize("where", ["truth", "predicted"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_classes_that_do_not_exist_are_refused(where, wrong, everywhere):
    guess, truth = maps()
    changed = {"truth": truth, "predicted": guess}[where].clone()
    changed[(slice(None) if everywhere else (0, 3, 5))] = wrong
    scores = SegmentationScores(GRID)
    with pytest.raises(ValueError, match=rf"{where} holds {wrong} at \d+ pixels; classes are 0 to 12"):
        scores.update(changed if where == "predicted" else guess, changed if where == "truth" else truth)
    assert scores.pixels.sum() == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint16])
def test_classes_in_few_bits_are_scored_as_in_many(dtype):
    classes = 40  # 40² is beyond 8 bits
    guess, truth = maps(classes=classes, missing=0.0)
    wide, narrow = SegmentationScores(GRID, classes), SegmentationScores(GRID, classes)
    wide.update(guess, truth)
    narrow.update(guess.to(dtype), truth.to(dtype))
    assert torch.equal(wide.areas, narrow.areas)
    assert torch.equal(wide.pixels, narrow.pixels)


@pytest.mark.parametrize("wrong", [-100, -1, 13])
def test_losses_weights_and_priors_learn_from_classes_that_exist(wrong):
    _, truth = maps()
    scores, area = torch.zeros(len(truth), 13, *GRID.shape), area_of(GRID)
    changed = truth.clone()
    changed[0, 3, 5] = wrong
    calls = (
        lambda label: segmentation_loss(scores, label, area),
        lambda label: class_weights(GRID, [label]),
        lambda label: ClassPrior(GRID, [label]),
        lambda label: ClassPrior(GRID, [label], by_row=True),
    )
    for call in calls:
        with pytest.raises(ValueError, match=rf"labels? holds {wrong} at 1 pixels; classes are 0 to 12"):
            call(changed)
        with pytest.raises(TypeError, match="must hold integers"):
            call(truth.float())
        with pytest.raises(TypeError, match="must be a tensor, got ndarray"):
            call(truth.numpy())
    assert segmentation_loss(scores, truth.to(torch.uint8), area) == segmentation_loss(scores, truth, area)


def test_no_prediction_is_the_mark_of_a_missing_class_and_classes_are_integers():
    guess, truth = maps()
    with pytest.raises(ValueError, match="predicted holds 255"):
        SegmentationScores(GRID).update(torch.full_like(guess, 255), truth)
    for one, other in ((guess.float(), truth), (guess, truth.float()), (guess == 1, truth)):
        with pytest.raises(TypeError, match="must hold integers"):
            SegmentationScores(GRID).update(one, other)
    scores = torch.zeros(len(guess), 13, *GRID.shape)
    scores[0, 2, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="1 of the classes' scores are NaN"):
        SegmentationScores(GRID).update(scores, truth)


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_median_that_is_not_positive_aligns_nothing(factor):
    guess, truth = map(torch.as_tensor, depths())
    guess = guess.clone()
    guess[1] *= factor
    with pytest.raises(ValueError, match=r"median predicted depth of panorama 1 .* m: .*alignment='none'"):
        DepthScores(GRID, alignment="median").update(guess, truth)
    DepthScores(GRID).update(guess, truth)


def test_a_true_depth_that_is_not_a_number_is_refused():
    guess, truth = map(torch.as_tensor, depths())
    truth = truth.clone()
    truth[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="a true depth is NaN; missing depths must be 0"):
        DepthScores(GRID).update(guess, truth)
