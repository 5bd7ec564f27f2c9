"""The evaluation command, end to end on a toy model in the demo encoder's space."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.fixtures import toy
from ldm.cli import evaluate
from ldm.errors import UserError
from ldm.evaluation import spaces
from ldm.evaluation.experiments import memorization
from ldm.evaluation.experiments.image_sets import SampleCache, halves, regions
from ldm.evaluation.experiments.superres_methods import METHODS
from ldm.evaluation.metrics.frechet import Statistics
from ldm.images.contact_sheet import save_png
from ldm.support.cache import Identity
from ldm.support.files import sha256

Run = Callable[..., dict]
ROOT = Path(__file__).parents[1]


class ToyEncoder:
    """Mean colours of the halves of a tile: as wide as the toy model's embeddings."""

    id, width, preprocessing = "toy", toy.EMBEDDING, "none"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        middle = images.shape[1] // 2
        return torch.cat([half.float().mean((1, 2)) / 255 for half in (images[:, :middle], images[:, middle:])], 1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for name in "abcd":
        toy.slide(folder / f"{name}.h5")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures of 64 px, two of each of three slides."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        small = np.random.default_rng(number).integers(60, 200, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(folder / f"slide{number // 2}_{64 * number}_0.png")
    return folder


@pytest.fixture
def run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Type a command; gives what it wrote."""
    load = spaces.load_encoder
    monkeypatch.setattr(
        spaces, "load_encoder", lambda name, *more: ToyEncoder() if name == "toy" else load(name, *more)
    )
    monkeypatch.chdir(tmp_path)

    def typed(command: str, *more: str | Path) -> dict:
        model = ["--model", str(world / "zoomldm"), "--precision", "fp32", "--accelerator", "cpu", "--out", "results"]
        evaluate.main([command, *model, *map(str, more)])
        return json.loads((tmp_path / "results" / command / f"{command}.json").read_text())

    return typed


def by(records: list[dict], *keys: str) -> dict[tuple, dict]:
    return {tuple(record[key] for key in keys): record for record in records}


def test_patches_of_every_scale_against_real_ones(run: Run, world: Path, cohort: Path, tmp_path: Path) -> None:
    options = (
        "--real",
        cohort,
        "--cdm",
        world / "cdm",
        "--space",
        "demo",
        "--steps",
        "2",
        "--count",
        "3",
        "--batch-size",
        "2",
    )
    found = by(run("patches", *options)["records"], "method", "scale")
    methods = ("real, other slides", "given embeddings", "CDM")
    assert set(found) == {(method, scale) for method in methods for scale in toy.SCALES}
    for cell in found.values():
        assert cell["n"] == 3
        assert cell["frechet"] >= 0
    assert found["CDM", "5x"]["m"] == 2 * 4  # both reference slides' regions
    # the toy slides are all alike, so other real ones are nearer than samples of a random network
    assert found["real, other slides", "20x"]["frechet"] < found["given embeddings", "20x"]["frechet"]
    table = (tmp_path / "results" / "patches" / "patches.md").read_text()
    assert "| CDM |" in table
    assert Image.open(tmp_path / "results" / "patches" / "patches.png").width > 3 * toy.TILE_PX


def test_a_command_typed_again_samples_nothing_and_finds_the_same(
    run: Run, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--real", cohort, "--space", "demo", "--scales", "5x", "--steps", "2", "--count", "3")
    first = run("patches", *options)["records"]
    monkeypatch.setattr("ldm.pipeline.ZoomLDM.sample", None)
    assert run("patches", *options)["records"] == first


def test_more_images_are_added_to_those_that_are_there(run: Run, cohort: Path, tmp_path: Path) -> None:
    options = ("--real", cohort, "--space", "demo", "--scales", "5x", "--steps", "2", "--batch-size", "2")
    run("patches", *options, "--count", "4")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "samples").rglob("*.png")}
    run("patches", *options, "--count", "6")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "samples").rglob("*.png")}
    assert len(before) == 4
    assert len(after) == 6
    assert before.items() <= after.items()


@pytest.mark.slow
def test_two_processes_sample_and_measure_what_one_does(run: Run, world: Path, cohort: Path, tmp_path: Path) -> None:
    options = ["--real", cohort, "--cdm", world / "cdm", "--space", "demo", "--scales", "5x,10x", "--steps", "2"]
    options += ["--count", "5", "--batch-size", "2"]
    one = run("patches", *options)["records"]
    command = [sys.executable, "scripts/evaluate.py", "patches", "--model", world / "zoomldm", "--precision", "fp32"]
    command += [*options, "--accelerator", "cpu", "--devices", "2", "--out", tmp_path / "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # one rounds otherwise than several
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| given embeddings |") == 8  # one process tells: a table of each figure
    two = json.loads((tmp_path / "two/patches/patches.json").read_text())["records"]
    keys = ("method", "scale", "space", "n", "m")
    assert list(by(two, *keys)) == list(by(one, *keys))
    for figure in ("frechet", "kid", "kid_error", "mmd"):
        assert [record[figure] for record in two] == pytest.approx([record[figure] for record in one], rel=1e-4)
    samples, again = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
        for folder in (tmp_path / "results/samples", tmp_path / "two/samples")
    )
    assert len(samples) == 4 * 5
    assert again == samples


def test_folders_are_measured_against_shared_statistics(run: Run, cohort: Path, tmp_path: Path) -> None:
    options = ("--space", "demo", "--scales", "5x", "--steps", "2", "--count", "4")
    first = run("patches", "--real", cohort, "--statistics", "stats", *options)["records"]
    kept = Statistics.load(next((tmp_path / "stats").glob("5x_demo-*.npz")))
    assert (kept.n, kept.scale) == (8, "5x")
    made = next((tmp_path / "results" / "samples").iterdir())
    again = run("patches", "--real", "stats", "--generated", f"there={made}", *options[:4])["records"]
    sampled = by(first, "method")[("given embeddings",)]
    (there,) = again
    assert there["method"] == "there"
    assert there["frechet"] == pytest.approx(sampled["frechet"], rel=1e-6)
    assert there["kid"] is None
    with pytest.raises(UserError, match="extractor"):
        run("patches", "--real", "stats", "--generated", f"there={made}", "--space", "toy", *options[2:4])


def test_large_images_are_painted_and_measured(run: Run, pictures: Path) -> None:
    options = ("--real", pictures, "--space", "demo", "--crop-space", "demo", "--count", "2")
    records = by(run("large", *options, "--methods", "independent", "ours")["records"], "method")
    assert set(records) == {("real, other places",), ("independent",), ("ours",)}
    ours = records[("ours",)]
    assert (ours["n whole"], ours["n crops"], ours["m crops"]) == (2, 8, 16)
    assert ours["constraint error"] < records[("independent",)]["constraint error"]
    assert records[("real, other places",)]["gradient energy"] == 1


@pytest.mark.slow
def test_super_resolution_is_scored_by_every_measure(run: Run, pictures: Path, tmp_path: Path) -> None:
    weights = toy.alexnet_weights(tmp_path / "alexnet.pth")
    options = ("--real", pictures, "--space", "demo", "--count", "2", "--weights", f"lpips={weights}")
    records = run("superres", *options)["records"]
    assert {record["method"] for record in records} == set(METHODS)
    assert len(records) == 2 * len(METHODS)
    for record in records:
        whole = [key for key in record if key.endswith(", whole")]
        assert all(-1 <= record[key] <= 1.001 for key in whole)
        assert record["PSNR"] > 5
        assert record[f"LPIPS, alexnet-{sha256(weights)[:12]}"] > 0
    residual = {method: np.mean([r["LR residual"] for r in records if r["method"] == method]) for method in METHODS}
    assert residual["given"] < 0.05  # of 2
    assert (tmp_path / "results" / "superres" / "superres.png").is_file()


def test_images_of_other_methods_are_rows_of_super_resolution(run: Run, pictures: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path in pictures.iterdir():
        Image.open(path).save(theirs / path.name)  # the truth itself
    options = ("--real", pictures, "--space", "toy", "--count", "3")
    records = run("superres", *options, "--methods", "bicubic", "--generated", f"theirs={theirs}")["records"]
    assert [record["method"] for record in records] == ["bicubic"] * 3 + ["theirs"] * 3
    inputs = tmp_path / "results" / "superres" / "inputs"
    assert [path.stem for path in sorted(inputs.iterdir())] == sorted(record["image"][:-4] for record in records[3:])
    assert Image.open(next(inputs.iterdir())).size == (16, 16)
    for record in records[3:]:
        assert record["SSIM"] == pytest.approx(1)
        assert record["LR residual"] < 0.003  # rounding of the small image
        assert record["CPU s"] is None
    alone = run("superres", *options, "--methods", "--generated", f"theirs={theirs}")["records"]
    assert alone == records[3:]


@pytest.mark.parametrize(
    ("command", "damage", "message"),
    [
        ("superres", "missing", "theirs: lacks slide0_0_0.png; expected an image named as each of the real ones"),
        ("superres", "small", "slide0_0_0.png: is 63x64 px; expected 64x64, as the real slide0_0_0"),
        ("large", "small", "slide0_0_0.png: is 63x64 px; expected 64x64, as the real images"),
        ("superres", "name", "--generated: bicubic is the name of another row"),
        ("large", "name", "--generated: ours is the name of another row"),
        ("superres", "twice", "--generated: theirs is named twice"),
        ("superres", "nothing", "--methods: none given, and no --generated"),
    ],
)
def test_images_of_other_methods_that_do_not_fit_are_refused(
    command: str, damage: str, message: str, run: Run, pictures: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(pictures, theirs)
    if damage == "missing":
        (theirs / "slide0_0_0.png").unlink()
    if damage == "small":
        Image.new("RGB", (63, 64)).save(theirs / "slide0_0_0.png")
    name = {"superres": "bicubic", "large": "ours"}[command] if damage == "name" else "theirs"
    given = [f"{name}={theirs}"] * (1 + (damage == "twice"))
    options = ["--real", pictures, "--space", "toy", *(("--crop-space", "toy") if command == "large" else ())]
    options += ["--count", "2" if command == "large" else "6", "--methods"]
    with pytest.raises(UserError, match=re.escape(message)):
        run(command, *options, *(() if damage == "nothing" else ("--generated", *given)))
    assert not (tmp_path / "results").exists()


def test_memorisation_compares_with_held_out_slides(run: Run, world: Path, cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    toy.slide(tmp_path / "train" / "seen.h5", slide_id="seen")
    options = ("--space", "demo", "--scales", "5x", "--steps", "2", "--count", "4")
    found = run("memorization", "--train", tmp_path / "train", "--real", cohort, *options)
    records = by(found["records"], "method")
    assert records[("real, held out",)]["median distance"] == pytest.approx(0, abs=1e-4)  # the toy slides are alike
    assert records[("given training embeddings",)]["nearer"] < 0.1
    assert 0 <= records[("trained on or not: to the region given",)]["nearer"] <= 1
    with pytest.raises(UserError, match="a and 3 more of a patient that was trained on"):
        run("memorization", "--train", cohort, "--real", cohort, *options)


def test_the_region_given_is_no_neighbour(
    run: Run, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples that equal the region of their embedding: their neighbours are other regions."""
    (tmp_path / "train").mkdir()
    toy.slide(tmp_path / "train" / "seen.h5", slide_id="seen")

    def copies(setup: object, method: str, scale: str, count: int, slides: list, sampling: object) -> list:
        return [region.image for region in regions(slides, scale, count)]

    monkeypatch.setattr(memorization, "sample", copies)
    options = ("--space", "toy", "--scales", "5x", "--count", "4")
    records = by(run("memorization", "--train", tmp_path / "train", "--real", cohort, *options)["records"], "method")
    assert records[("given training embeddings",)]["median distance"] > 0.01
    assert records[("given embeddings",)]["median distance"] == 0  # the held-out toy slides equal the training one
    assert records[("trained on or not: to the region given",)]["median distance"] == 0


def test_a_run_is_measured_on_the_slides_of_its_cohort_that_it_was_not_trained_on(
    run: Run, cohort: Path, tmp_path: Path
) -> None:
    (tmp_path / "splits.csv").write_text(
        "slide,patient,part\na,a,train\nb,b,validation\nc,c,train\nd,d,test\n", encoding="utf-8"
    )
    data = {"cohort": str(cohort), "split": str(tmp_path / "splits.csv")}
    toy.run_folder(tmp_path / "run", "zoomldm", data=data)
    options = ("--model", tmp_path / "run", "--space", "demo", "--scales", "10x", "--steps", "2", "--count", "3")
    records = run("patches", *options)["records"]
    assert {record["m"] for record in records} == {16}  # the regions of one slide, b
    assert {record["method"] for record in records} == {"real, other slides", "given embeddings"}
    found = run("memorization", *options)["records"]
    assert by(found, "method")[("real, held out",)]["n"] == by(found, "method")[("real, held out",)]["training"] == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["patches", "--space", "demo"], "--real: none given; .* is no bundled model and no run with"),
        (["patches", "--weights", "inception"], "--weights: inception; expected NAME=PATH"),
        (
            ["patches", "--space", "inceptoin"],
            "inceptoin is unknown; expected .* timm model name or hf-hub:ORG/NAME$",
        ),
        (["patches", "--space", "hipt"], "hipt: no hub has its weights; .* \\(here: --weights hipt=PATH\\)$"),
        (["patches", "--space", "inception"], "inception: .* is missing; download"),
        (["large", "--space", "demo"], "inception: .* is missing; download"),
        (["patches", "--space", "demo", "--real", "nowhere"], "--real: nowhere does not exist"),
        (["superres", "--space", "demo"], "only --model demo.* brings its own data"),
        (
            ["superres", "--space", "demo", "--real", "PICTURES", "--weights", "lpips=nowhere"],
            "lpips: nowhere is missing; .* give --weights lpips=PATH",
        ),
        (["superres", "--space", "demo", "--scales", "20x", "--real", "PICTURES"], "scales: 20x; expected the finest"),
        (["large", "--space", "demo", "--crop-space", "demo", "--scales", "20x", "--real", "PICTURES"], "scales: 20x"),
        (["large", "--count", "1"], "--count: 1; expected at least 2"),
    ],
)
def test_mistakes_are_told_in_one_line_before_any_work(
    options: list[str], message: str, run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=message) as refusal:
        run(*(str(pictures) if option == "PICTURES" else option for option in options))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "results").exists()


def test_halves_share_no_patient() -> None:
    slides = ["TCGA-A1-A0SB-01Z-00-DX1", "TCGA-A1-A0SB-01Z-00-DX2", "TCGA-B2-0001-01Z", "other", "another"]
    first, second = halves(slides, str)
    assert sorted(first + second) == sorted(slides)
    assert ("TCGA-A1-A0SB-01Z-00-DX1" in first) == ("TCGA-A1-A0SB-01Z-00-DX2" in first)
    with pytest.raises(UserError, match="1 slides or patients; expected at least 2"):
        halves(slides[:2], str)


def test_a_gallery_makes_what_is_missing_in_the_same_ranges(tmp_path: Path) -> None:
    asked = []

    def make(numbers: range) -> list[np.ndarray]:
        asked.append(list(numbers))
        return [np.full((4, 4, 3), number, np.uint8) for number in numbers]

    gallery = SampleCache(tmp_path, "ours 5x", Identity("samples", settings={"seed": 0}))
    gallery.fill(5, make, batch=2)
    assert asked == [[0, 1], [2, 3], [4]]
    gallery.path(3).unlink()
    again = SampleCache(tmp_path, "ours 5x", Identity("samples", settings={"seed": 0}))
    again.fill(5, make, batch=2)
    assert asked[3:] == [[2, 3]]
    assert [int(load().mean()) for load in again.loaders(5)] == [0, 1, 2, 3, 4]
    save_png(again.path(4), np.full((4, 4, 3), 99, np.uint8))  # somebody changed it
    again.fill(5, make, batch=2)
    assert asked[4:] == [[4]]
    again.path(4).with_name(f"{again.path(4).name}.sha256").unlink()  # of an earlier version
    again.fill(5, make, batch=2)
    assert asked[5:] == []
    assert [int(load().mean()) for load in again.loaders(5)] == [0, 1, 2, 3, 4]
    assert SampleCache(tmp_path, "ours 5x", Identity("samples", settings={"seed": 1})).folder != gallery.folder
