"""Command lines refuse invalid numbers."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import crops, splits
from ldm.cli import draw, evaluate, superres
from ldm.cli import features as extract_features
from ldm.cli import joint as sample_joint
from ldm.cli import mil as train_mil
from ldm.cli import sample as sample_patches
from ldm.diffusion.samplers import DEFAULT_SAMPLER, SAMPLERS
from ldm.evaluation.experiments import large_images as large
from ldm.evaluation.experiments import superres_methods as enlarging
from ldm.evaluation.experiments.names import CONTROLLED, LARGE, SUPERRES
from ldm.evaluation.mil.features import SOURCES, FeatureExtractor, Probe
from ldm.multiscale.presets import SAMPLER_NAMES
from ldm.support.arguments import LARGEST_SEED, fraction, integer, non_negative, positive_int, real, seed_int

ROOT = Path(__file__).parents[2]
CASES: list[tuple[Callable[..., object], list[str]]] = [
    (sample_patches.parse_args, ["--guidance", "nan"]),
    (sample_patches.parse_args, ["--count", "-1"]),
    (sample_joint.parse_args, ["--lambda", "inf"]),
    (sample_joint.parse_args, ["--tolerance", "nan"]),
    (sample_joint.parse_args, ["--batch-size", "0"]),
    (sample_joint.parse_args, ["--seed", "-1"]),
    (superres.parse_args, ["--guidance=-inf"]),
    (evaluate.parse_args, ["patches", "--guidance", "1e999"]),
    (evaluate.parse_args, ["large", "--size", "0"]),
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
    assert [fraction("0"), fraction("1"), non_negative("0"), real(-1.5)("-1.5")] == [0, 1, 0, -1.5]


def test_names_and_defaults_that_commands_read_without_pytorch_are_those_of_the_code() -> None:
    assert set(SAMPLER_NAMES) == set(SAMPLERS)
    assert SAMPLER_NAMES[0] == DEFAULT_SAMPLER
    assert set(LARGE) == set(large.METHODS)
    assert set(SUPERRES) == {*enlarging.METHODS, *CONTROLLED}
    args = extract_features.parse_args(["cohort"])
    assert Probe(args.block, args.t, args.clean, args.seed) == Probe()
    assert (args.source, args.batch_size) == (SOURCES[0], FeatureExtractor.batch_size)
