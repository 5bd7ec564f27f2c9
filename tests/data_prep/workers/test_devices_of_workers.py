"""Processes that each own networks share a cohort without communication."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.robustness import prepared_cohort
from data_prep.preparation import prepare

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_two_devices_prepare_what_one_does(tmp_path: Path) -> None:
    config = prepared_cohort.make(tmp_path, 4)
    prepare(config)
    two = prepared_cohort.variant(config, out=str(tmp_path / "two"))
    given = ["--config", "configs/demo/data.yaml", *prepared_cohort.overrides(two)]
    command = [sys.executable, "data_prep/prepare.py", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # one rounds otherwise than several
    done = subprocess.run(
        [*command, "--devices", "2", "accelerator=cpu"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"4 of 4 slides are in {two.out}"
    assert prepared_cohort.differing(prepared_cohort.contents(two.out), prepared_cohort.contents(config.out)) == []
    assert prepared_cohort.hidden(two.out) == []
