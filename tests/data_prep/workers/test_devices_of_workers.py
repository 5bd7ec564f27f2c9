"""Processes that each own networks share a cohort without a word."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_prep.preparation import prepare
from tests.robustness import cohort

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_two_devices_prepare_what_one_does(tmp_path: Path) -> None:
    config = cohort.make(tmp_path, 4)
    prepare(config)
    two = cohort.variant(config, out=str(tmp_path / "two"))
    command = [sys.executable, "data_prep/prepare.py", "--config", "configs/demo/data.yaml", *cohort.overrides(two)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # one rounds otherwise than several
    done = subprocess.run(
        [*command, "--devices", "2", "accelerator=cpu"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"4 of 4 slides are in {two.out}"
    assert cohort.differing(cohort.contents(two.out), cohort.contents(config.out)) == []
    assert cohort.hidden(two.out) == []
