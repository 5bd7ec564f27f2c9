"""R3 at a small count."""

from pathlib import Path

import pytest

from benchmarks.robustness import resume


def test_a_run_killed_while_saving_has_a_whole_checkpoint(tmp_path: Path, overrides: list[str]) -> None:
    assert list(resume.killed_while_saving(tmp_path, overrides, 2)) == [True, True]


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_as_one_that_was_not(tmp_path: Path, overrides: list[str]) -> None:
    """At a random step, before the first checkpoint, after the last."""
    whole = resume.undisturbed(tmp_path / "whole", overrides)
    for killed in (resume.killed_at_random, resume.killed_before_the_first, resume.killed_after_the_last):
        assert list(killed(tmp_path, overrides, whole, 1)) == [True], killed.__name__
