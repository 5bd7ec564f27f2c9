"""R13 at a small count: one change of each command that keeps something."""

from pathlib import Path

import pytest

import ldm.support.cache
from benchmarks.robustness import stale


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sampling from a slide", "slides"),
        ("samples of patches", "weights of cdm"),
        ("bags", "slides"),
    ],
)
def test_what_was_kept_is_made_anew(tmp_path: Path, name: str, change: str) -> None:
    case = next(case for case in stale.CASES if case.name == name)
    changed = next(each for each in case.changes if each.name == change)
    assert stale.outcome(tmp_path, case, changed) == "made anew"


def test_what_is_used_again_though_it_is_stale_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ldm.support.cache, "sha256", lambda path: "0" * 64)
    case = next(case for case in stale.CASES if case.name == "bags")
    assert stale.outcome(tmp_path, case, stale.SLIDES) == "silent"
