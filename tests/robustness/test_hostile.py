"""R6 at a fifth of its count; python -m benchmarks.robustness runs it in full."""

from pathlib import Path

from benchmarks.robustness import hostile


def test_nothing_hostile_runs_or_escapes_and_each_refusal_is_one_line(tmp_path: Path) -> None:
    found = dict(hostile.outcomes(tmp_path, list(hostile.ATTACKS)[::5]))
    assert {name: outcome for name, outcome in found.items() if outcome not in hostile.GOOD} == {}
    assert sum(outcome == "refused" for outcome in found.values()) > 0.8 * len(found)
