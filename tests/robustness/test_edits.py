"""R11 at a tenth of its count; python -m benchmarks.robustness runs it in full."""

from pathlib import Path

from benchmarks.robustness import edits


def test_no_edited_config_weights_or_bag_is_read_in_silence(tmp_path: Path) -> None:
    found = list(edits.outcomes(tmp_path, 48))
    assert [(name, ended) for name, ended in found if ended not in edits.GOOD] == []
    assert sum(ended == "refused" for _, ended in found) > 0.7 * len(found)
