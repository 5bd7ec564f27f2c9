"""Multiple-instance learning: planted signals are found, shuffled ones are not, test folds are held out."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.data.split_file import folds
from ldm.errors import UserError
from ldm.evaluation.mil import classifier as mil
from ldm.evaluation.mil.attention_map import HOT, VEIL, attention_map
from ldm.evaluation.mil.classifier import (
    Standardiser,
    auc,
    cross_validate,
    fit,
    half_interval,
)

SLIDES, WIDTH = 36, 6
LABELS = np.arange(SLIDES) % 2


def dealt(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Folds of slides that are a patient each."""
    return folds([f"p{number}" for number in range(len(labels))], labels.astype(str).tolist(), k, seed)


def planted(seed: int = 0) -> list[Tensor]:
    """Bags of 12 to 30 tiles; those of label 1 hold three tiles with a large first channel."""
    rng = np.random.default_rng(seed)
    bags = []
    for label in LABELS:
        bag = rng.normal(size=(rng.integers(12, 31), WIDTH)).astype(np.float32)
        bag[:3, 0] += 4 * label
        bags.append(torch.from_numpy(bag))
    return bags


def test_a_planted_answer_is_found_and_so_are_its_tiles() -> None:
    found = cross_validate(planted(), LABELS, dealt(LABELS, 4, 0), seed=0)
    assert found.mean > 0.95
    assert len(found.aucs) == 4
    assert [float(p.attention.sum()) for p in found.predictions] == pytest.approx([1] * SLIDES, abs=1e-5)
    on_planted = [float(found.predictions[i].attention[:3].sum()) for i in np.flatnonzero(LABELS)]
    by_chance = [3 / len(planted()[i]) for i in np.flatnonzero(LABELS)]
    assert np.mean(on_planted) > 1.5 * np.mean(by_chance)


def test_shuffled_labels_are_not() -> None:
    means = []
    for seed in range(2):
        shuffled = np.random.default_rng(seed).permutation(LABELS)
        means.append(cross_validate(planted(), shuffled, dealt(shuffled, 4, seed), seed).mean)
    assert abs(np.mean(means) - 0.5) < 0.2


def test_everything_follows_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    fold = dealt(LABELS, 3, 0)
    monkeypatch.setattr(mil, "EPOCHS", 5)
    first, again = (cross_validate(planted(), LABELS, fold, seed=5) for _ in range(2))
    assert [p.logit for p in first.predictions] == [p.logit for p in again.predictions]
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    fit(planted(), LABELS, [0, 1, 2, 3], [4, 5], seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_classifier_knows_neither_labels_nor_bags_of_the_fold_it_is_tested_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mil, "EPOCHS", 5)
    bags, fold = planted(), dealt(LABELS, 3, 0)
    straight = cross_validate(bags, LABELS, fold, seed=0)
    other = LABELS.copy()
    tested = np.flatnonzero(fold == 0)
    other[tested] = 1 - other[tested]
    swapped = cross_validate(bags, other, fold, seed=0)
    assert [straight.predictions[i].logit for i in tested] == [swapped.predictions[i].logit for i in tested]
    spoiled = list(bags)
    spoiled[tested[0]] = 1e6 * torch.ones(5, WIDTH)
    after = cross_validate(spoiled, LABELS, fold, seed=0)
    assert [straight.predictions[i].logit for i in tested[1:]] == [after.predictions[i].logit for i in tested[1:]]


def test_training_stops_where_the_validation_loss_was_least() -> None:
    bags = planted()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2, SLIDES)
    noise[:4] = [0, 1, 0, 1]
    few = fit(bags, noise, list(range(20)), list(range(20, SLIDES)), seed=0)
    probabilities = [1 / (1 + math.exp(-few(bags[i]).logit)) for i in range(20, SLIDES)]
    assert max(abs(p - 0.5) for p in probabilities) < 0.35  # random labels: no confidence, though it could overfit


def test_a_fold_of_one_label_is_refused() -> None:
    with pytest.raises(UserError, match="fold 0 of 3 holds one label only"):
        cross_validate(planted()[:6], np.array([0, 0, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 2, 2]), 0)


@pytest.mark.parametrize("seed", range(4))
def test_auc_is_the_share_of_pairs_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-4, 5, 25).astype(float) * 3
    labels = rng.permutation(np.arange(25) % 2)
    ones, zeros = logits[labels == 1][:, None], logits[labels == 0]
    expected = (ones > zeros).mean() + 0.5 * (ones == zeros).mean()
    assert auc(logits.tolist(), labels) == pytest.approx(expected, abs=1e-6)


def test_standardised_tiles_of_the_chosen_bags_have_mean_0_and_deviation_1() -> None:
    bags = [3 + 2 * torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (5, 50, 9)]
    scale = Standardiser.of(bags, [0, 1])
    tiles = torch.cat([scale(bag) for bag in bags[:2]])
    torch.testing.assert_close(tiles.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(tiles.std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)


def test_tiles_are_reduced_to_the_directions_in_which_the_chosen_bags_vary_most() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(60, 1, generator=generator) for _ in range(3)]
    bags = [torch.cat([h, -2 * h, 0.1 * torch.randn(60, 1, generator=generator)], 1) for h in hidden]
    reduced = Standardiser.of(bags, [0, 1], components=1)
    found = reduced(bags[2])[:, 0]
    assert found.shape == (60,)
    assert abs(torch.corrcoef(torch.stack([found, hidden[2][:, 0]]))[0, 1]) > 0.99
    assert Standardiser.of(bags, [0, 1], components=3).axes is None


def test_the_interval_is_students() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.5, 0.1, (2000, 5))
    inside = [abs(draw.mean() - 0.5) < half_interval(draw.tolist()) for draw in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)
    assert half_interval([0.5]) == np.inf


def test_attention_is_painted_on_its_tiles_and_nowhere_else() -> None:
    picture = np.full((40, 60, 3), 200, np.uint8)
    shown = attention_map(picture, np.array([0.2, 0.8]), np.array([[0.0, 0], [20, 10]]), 10.0)
    hot = np.rint(200 + VEIL * (HOT - 200))
    np.testing.assert_array_equal(shown[10:20, 20:30].reshape(-1, 3), np.tile(hot, (100, 1)))
    assert (shown[:10, :10] != 200).any(-1).all()
    changed = (shown != picture).any(-1)
    assert changed.sum() == 200
