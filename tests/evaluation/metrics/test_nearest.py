"""Memorisation: a planted copy is detected, a model that does not copy is not, training patients are refused."""

import numpy as np
import pytest

from ldm.errors import UserError
from ldm.evaluation.metrics import nearest as memorization
from ldm.evaluation.metrics.nearest import check_apart, closest, judge, nearest


def images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 16))


def test_nearest_is_that_of_all_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    x, bank = images(25, 0), images(40, 1)
    distances = np.linalg.norm(x[:, None] - bank, axis=2)
    for block in (4, 1000):
        monkeypatch.setattr(memorization, "BLOCK", block)
        found = nearest(x, bank)
        np.testing.assert_array_equal(found.training, distances.argmin(1))
        np.testing.assert_allclose(found.distance, distances.min(1), rtol=1e-12)


def test_the_training_image_left_out_is_never_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = images(40, 1)
    x, own = bank[:25] + 1e-3, list(range(25))
    for block in (4, 1000):
        monkeypatch.setattr(memorization, "BLOCK", block)
        assert nearest(x, bank).training.tolist() == own
        found = nearest(x, bank, own)
        others = [np.delete(np.arange(40), i) for i in own]
        expected = [
            kept[np.linalg.norm(row - bank[kept], axis=1).argmin()] for row, kept in zip(x, others, strict=True)
        ]
        assert found.training.tolist() == expected
    with pytest.raises(UserError, match="expected at least 2"):
        nearest(x[:1], bank[:1], [0])


def test_a_planted_copy_is_found_and_stands_first() -> None:
    training, samples, held_out = images(200, 0), images(30, 1), images(50, 2)
    samples[17] = training[123] + 1e-3
    near = nearest(samples, training)
    assert near.training[17] == 123
    verdict = judge(near.distance, nearest(held_out, training).distance)
    assert verdict.below >= 1
    assert verdict.expected == pytest.approx(30 / 51)
    assert closest({"ours": near, "others": nearest(held_out, training)}, 1) == [("ours", 17)]


def test_a_model_that_copies_is_told_from_one_that_does_not() -> None:
    training, held_out = images(300, 0), nearest(images(100, 1), images(300, 0)).distance
    honest = judge(nearest(images(100, 2), training).distance, held_out)
    assert 0.4 < honest.nearer < 0.6
    assert honest.p_value > 0.01
    copies = training[:100] + 0.5 * images(100, 3)
    verdict = judge(nearest(copies, training).distance, held_out)
    assert verdict.nearer > 0.95
    assert verdict.p_value < 1e-6
    assert verdict.below > 10 * verdict.expected


def test_probabilities_of_honest_models_are_spread_evenly() -> None:
    rng = np.random.default_rng(0)
    verdicts = [judge(rng.normal(size=20), rng.normal(size=20)) for _ in range(300)]
    assert np.mean([verdict.nearer for verdict in verdicts]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([verdict.p_value < 0.1 for verdict in verdicts]) == pytest.approx(0.1, abs=0.05)
    assert np.mean([verdict.below for verdict in verdicts]) == pytest.approx(20 / 21, rel=0.3)


def test_a_patient_of_the_training_set_is_refused_among_the_held_out() -> None:
    training = {"a-1": "a", "b-1": "b"}
    check_apart(training, {"c-1": "c"})
    with pytest.raises(UserError, match=r"held out: a-2 of a patient that was trained on \(a\)"):
        check_apart(training, {"c-1": "c", "a-2": "a"})
    with pytest.raises(UserError, match="b-1 and 1 more"):
        check_apart(training, {"b-1": "z", "a-2": "a"})


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(UserError, match="of one width"):
        nearest(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(UserError, match="expected at least 1"):
        nearest(np.zeros((3, 2)), np.zeros((0, 2)))
    with pytest.raises(UserError, match="0 held-out images"):
        judge([1.0], [])
