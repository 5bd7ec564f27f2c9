"""Command lines refuse invalid numbers."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_prep import crops, splits
from ldm.cli import draw, evaluate, superres
from ldm.cli import features as extract_features
from ldm.cli import joint as sample_joint
from ldm.cli import mil as train_mil
from ldm.cli import sample as sample_patches
from ldm.diffusion.defaults import SAMPLER, STEPS
from ldm.diffusion.guidance import LARGEST, guided
from ldm.diffusion.samplers import SAMPLERS, ddim
from ldm.errors import UserError
from ldm.evaluation.experiments import large_images as large
from ldm.evaluation.experiments import superres_methods as enlarging
from ldm.evaluation.experiments.names import CONTROLLED, LARGE, SUPERRES, SUPERRES_LDM
from ldm.evaluation.mil.features import SOURCES, FeatureExtractor, Probe
from ldm.support.arguments import LARGEST_SEED, fraction, guidance, integer, positive_int, real, seed_int

ROOT = Path(__file__).parents[2]
CASES: list[tuple[Callable[..., object], list[str]]] = [
    (sample_patches.parse_args, ["--guidance", "nan"]),
    (sample_patches.parse_args, ["--guidance-interval", "3,0.3"]),
    (sample_patches.parse_args, ["--guidance-interval", "0.3"]),
    (sample_patches.parse_args, ["--count", "-1"]),
    (sample_patches.parse_args, ["--scales", "5x,5x"]),
    (sample_joint.parse_args, ["--lambda", "inf"]),
    (sample_joint.parse_args, ["--tolerance", "nan"]),
    (sample_joint.parse_args, ["--guidance-interval", "nan,3"]),
    (sample_joint.parse_args, ["--batch-size", "0"]),
    (sample_joint.parse_args, ["--seed", "-1"]),
    (superres.parse_args, ["--guidance=-inf"]),
    (superres.parse_args, ["--guidance-interval=-1,3"]),
    (evaluate.parse_args, ["patches", "--guidance", "1e999"]),
    (evaluate.parse_args, ["patches", "--guidance-interval", "1,1"]),
    (evaluate.parse_args, ["large", "--size", "0"]),
    (sample_patches.parse_args, ["--guidance", "1e38"]),
    (sample_patches.parse_args, ["--steps", "1000000"]),
    (sample_joint.parse_args, ["--guidance", "101"]),
    (sample_joint.parse_args, ["--lambda", "1e30"]),
    (sample_joint.parse_args, ["--inner", "99999999"]),
    (superres.parse_args, ["--steps", "1001"]),
    (evaluate.parse_args, ["patches", "--guidance", "1e9"]),
    (extract_features.parse_args, ["data", "--t", "1000"]),
    (extract_features.parse_args, ["data", "--t", "-3"]),
    (extract_features.parse_args, ["data", "--devices", "0"]),
    (train_mil.parse_args, ["--shuffles", "-1"]),
    (crops.main, ["slides", "--count", "0"]),
    (draw.main, ["--size", "1.5"]),
    (splits.main, ["--cohort", "data", "--validation", "nan"]),
    (splits.main, ["--cohort", "data", "--seed", "-1"]),
]


@pytest.mark.parametrize(("command", "arguments"), CASES)
def test_it_is_refused_with_its_option_and_what_was_expected(
    command: Callable[..., object], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(arguments)
    assert ended.value.code == 2
    assert re.search(r"error: argument --[\w-]+: .*expected .*\d", capsys.readouterr().err)


def test_no_command_takes_numbers_as_they_come() -> None:
    """int and float let -1, nan and inf through; the types of ldm.support.arguments do not."""
    files = [
        ROOT / "main.py",
        *(file for room in ("scripts", "data_prep", "benchmarks", "ldm/cli") for file in ROOT.glob(f"{room}/**/*.py")),
    ]
    assert [file.name for file in files if re.search(r"type=(int|float)\b", file.read_text())] == []


def test_the_ends_of_a_range_belong_to_it() -> None:
    assert [positive_int("1"), seed_int(str(LARGEST_SEED)), integer(-2, 2)("-2")] == [1, LARGEST_SEED, -2]
    assert [fraction("0"), fraction("1"), guidance("100"), real(-1.5)("-1.5")] == [0, 1, 100, -1.5]


def test_the_python_interface_refuses_the_same_magnitudes() -> None:
    assert guidance(str(LARGEST)) == LARGEST
    for value in (1e38, float("nan"), -1e3):
        with pytest.raises(UserError, match=re.escape(f"guidance: {value} found, expected a number up to 100")):
            guided(lambda z, t: z, lambda z, t: z, value)
    with pytest.raises(UserError, match=r"eta: 5 found, expected a number from 0 \(deterministic\) to 1"):
        ddim(lambda z, t: z, torch.zeros(1, 3), torch.linspace(0.9, 0.1, 10), [5, 1], eta=5)


def test_names_and_defaults_that_commands_read_without_pytorch_are_those_of_the_code() -> None:
    assert {name: sampler.steps for name, sampler in SAMPLERS.items()} == STEPS
    assert SAMPLER in SAMPLERS
    assert set(LARGE) == set(large.METHODS)
    assert set(SUPERRES) == {*enlarging.METHODS, *CONTROLLED, SUPERRES_LDM}
    args = extract_features.parse_args(["cohort"])
    assert Probe(args.block, args.t, args.clean, args.seed) == Probe()
    assert (args.source, args.batch_size) == (SOURCES[0], FeatureExtractor.batch_size)


def test_what_commands_write_by_default_is_not_for_git() -> None:
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/")]
    files = [*(ROOT / "ldm/cli").glob("*.py"), *(ROOT / "data_prep").glob("*.py"), *(ROOT / "configs").rglob("*.yaml")]
    written = r'add_model_out\(add, "(.+?)"|output_folder, default="(.+?)"|^out: (\S+)'
    found = {
        folder.partition("/")[0]
        for file in files
        for groups in re.findall(written, file.read_text(), re.M)
        for folder in groups
        if folder
    }
    assert {"data", "samples", "results", "features"} <= found
    assert found <= set(ignored)
