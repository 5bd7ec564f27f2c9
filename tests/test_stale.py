"""Cached results: when anything that a result depends on changes, the result is made again."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ldm.support.cache
from benchmarks.fixtures import toy
from benchmarks.fixtures.interrupted import interrupted_after
from benchmarks.robustness.stale import scale_weights, set_key
from ldm.cli import joint as sample_joint
from ldm.data.h5 import SlideFile
from ldm.evaluation.experiments import large_images as large
from ldm.evaluation.experiments import patches, superres_scores
from ldm.evaluation.experiments.context import EvalContext
from ldm.evaluation.experiments.superres_methods import METHODS, Constrained, Enlarge
from ldm.evaluation.mil.features import FeatureExtractor, Probe
from ldm.multiscale.conditions import drawn_tokens
from ldm.multiscale.super_resolution import CONSISTENT
from ldm.pipeline import ZoomLDM
from tests.test_evaluate import ToyEncoder

Change = Callable[[Path], None]


@pytest.fixture
def own(world: Path, tmp_path: Path) -> Path:
    """The toy model, its CDM, two slides and two pictures, to be changed."""
    folder = tmp_path / "own"
    for run in ("zoomldm", "cdm"):
        shutil.copytree(world / run, folder / run)
    toy.slide(folder / "a.h5")
    toy.slide(folder / "b.h5")
    for name in "pq":
        Image.fromarray(pixels(name)).save(folder / f"{name}.png")
    return folder


def pixels(name: str) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def redraw(slide: Path) -> None:
    """Another slide of the same name and attributes."""
    slide.unlink()
    toy.slide(slide, height_l0=8 * toy.TILE_PX + 1)


def repaint(picture: Path) -> None:
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)


@pytest.fixture
def start(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Begin to sample, stop: the first command after two steps, later ones at once; gives the steps they found done."""
    monkeypatch.setattr("ldm.commands.joint_origin.load_encoder", lambda name: ToyEncoder())
    monkeypatch.setattr("ldm.commands.joint_origin.drawn_tokens", partial(drawn_tokens, steps=2))
    done: list[int] = []

    def begin(*options: str) -> int:
        given = ["--model", str(own / "zoomldm"), "--cdm", str(own / "cdm"), "--out", str(tmp_path / "out")]
        fixed = ["--size", "64", "--steps", "4", "--accelerator", "cpu"]
        with interrupted_after(0 if done else 2) as begun, pytest.raises(KeyboardInterrupt):
            sample_joint.main([*given, *fixed, *options])
        done.extend(begun)
        return done[-1]

    return begin


@pytest.mark.parametrize(
    ("origin", "change", "differs"),
    [
        ("a.h5", lambda own: scale_weights(own / "zoomldm", 1.01), "weights.model"),
        ("a.h5", lambda own: set_key(own / "zoomldm", "model.prediction", "eps"), "weights.model config"),
        ("a.h5", lambda own: set_key(own / "zoomldm", "model.schedule.end", 0.02), "weights.model config"),
        ("a.h5", lambda own: redraw(own / "a.h5"), "inputs.slide"),
        ("p.png", lambda own: repaint(own / "p.png"), "inputs.picture"),
        ("cdm", lambda own: scale_weights(own / "cdm", 1.01), "weights.cdm"),
        ("cdm", lambda own: set_key(own / "cdm", "model.cdm.heads", 4), "weights.cdm config"),
    ],
)
def test_a_sampling_is_not_gone_on_from_with_anything_else(
    start: Callable[..., int], own: Path, origin: str, change: Change, differs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--from", origin if origin == "cdm" else str(own / origin)]
    assert (start(*options), start(*options)) == (0, 2)
    assert "another sampling" not in capsys.readouterr().out
    change(own)
    assert start(*options) == 0
    assert f"is of another sampling ({differs}: " in capsys.readouterr().out


def test_a_sampling_is_not_gone_on_from_with_other_settings(start: Callable[..., int], own: Path) -> None:
    options = ["--from", str(own / "a.h5"), "--place=0,0"]
    assert (start(*options), start(*options)) == (0, 2)
    for option in (
        *("--seed=1", "--precision=bf16", "--batch-size=2", "--steps=5", "--guidance=2", "--seam=none", "--inner=2"),
        "--guidance-interval=0.3,3",
        *("--lambda=0.4", "--tolerance=0.1", "--size=68", "--scales=20x,10x", "--place=1,1", "--preset=paper"),
    ):
        assert start(*options, option) == 0, option
    assert start("--from=none") == 0
    assert start(*options) == 2
    assert start("--from=none") == 0


def bench(own: Path, **changes: Any) -> EvalContext:
    model = ZoomLDM.load(own / "zoomldm", own / "cdm", precision=changes.pop("precision", "fp32"))
    return replace(EvalContext(model, [], own / "results", batch=2), **changes)


def of_slides(cdm: bool) -> Callable[..., Path]:
    def folder(own: Path, bench: EvalContext, **sampling: Any) -> Path:
        slides = None if cdm else [SlideFile(own / f"{name}.h5") for name in "ab"]
        given = {"guidance": 2.0, "sampler": "ddim", "steps": 2} | sampling
        return patches.cache_of(bench, "given", "5x", slides, given).folder

    return folder


SLIDES, CDM = of_slides(cdm=False), of_slides(cdm=True)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch": 3},
        {"precision": "bf16"},
    ],
)
def test_samples_depend_on_how_they_are_made(own: Path, change: dict[str, Any]) -> None:
    for folder in (SLIDES, CDM):
        assert folder(own, bench(own)) == folder(own, bench(own))
        assert folder(own, bench(own, **change)) != folder(own, bench(own))


@pytest.mark.parametrize(
    "change", [{"guidance": 3.0}, {"guidance_interval": (0.3, 3.0)}, {"sampler": "dpmpp"}, {"steps": 3}]
)
def test_samples_depend_on_the_sampler(own: Path, change: dict[str, Any]) -> None:
    for folder in (SLIDES, CDM):
        assert folder(own, bench(own), **change) != folder(own, bench(own))


def test_samples_depend_on_the_model_and_on_their_conditions_alone(own: Path) -> None:
    before = SLIDES(own, bench(own)), CDM(own, bench(own))
    scale_weights(own / "cdm", 1.01)
    slides, cdm = SLIDES(own, bench(own)), CDM(own, bench(own))
    assert (slides == before[0], cdm == before[1]) == (True, False)
    redraw(own / "b.h5")
    assert SLIDES(own, bench(own)) != slides
    assert CDM(own, bench(own)) == cdm
    set_key(own / "zoomldm", "model.prediction", "eps")
    assert CDM(own, bench(own)) != cdm


def enlarged(own: Path, method: Enlarge, bench: EvalContext, encoder: str = "toy") -> Path:
    embed = ToyEncoder()
    embed.id = encoder
    return superres_scores.cache_of(bench, "m", method, [own / "p.png"], ["20x", "5x"], embed).folder


def painted(own: Path, method: large.Paint, bench: EvalContext, encoder: str = "toy") -> Path:
    embed = ToyEncoder()
    embed.id = encoder
    return large.cache_of(bench, "m", method, [own / "p.png"], ["20x", "5x"], embed).folder


@pytest.mark.parametrize("name", ["none", "inferred", "given"])
def test_enlarged_images_depend_on_all_settings_of_their_method(own: Path, name: str) -> None:
    method, first = METHODS[name], bench(own)
    assert isinstance(method, Constrained)
    kept = enlarged(own, method, first)
    assert enlarged(own, replace(method, sampling=replace(CONSISTENT)), first) == kept
    rule = replace(CONSISTENT.rule, weight=0.5)
    for key, value in {"steps": 3, "guidance": 7.0, "rounds": 1, "share": 0.5, "seam": "none", "rule": rule}.items():
        assert enlarged(own, replace(method, sampling=replace(CONSISTENT, **{key: value})), first) != kept, key
    assert enlarged(own, replace(method, inversion_steps=5), first) != kept
    for change in ({"seed": 1}, {"batch": 3}, {"precision": "bf16"}):
        assert enlarged(own, method, bench(own, **change)) != kept
    others = {enlarged(own, other, first) for other in METHODS.values()}
    assert len(others) == len(METHODS)
    assert (enlarged(own, method, first, encoder="other") != kept) == (name == "given")
    repaint(own / "p.png")
    assert enlarged(own, method, first) != kept


@pytest.mark.parametrize("name", list(large.METHODS))
def test_large_images_depend_on_all_settings_of_their_method(own: Path, name: str) -> None:
    method, first = large.METHODS[name], bench(own)
    assert isinstance(method, large.JointMethod)
    kept = painted(own, method, first)
    assert painted(own, large.JointMethod(replace(method.sampling)), first) == kept
    for key, value in {"steps": 3, "guidance": 7.0, "fine_guidance": 5.0, "rounds": 3, "quantize": True}.items():
        assert painted(own, large.JointMethod(replace(method.sampling, **{key: value})), first) != kept, key
    assert painted(own, method, first, encoder="other") != kept
    assert len({painted(own, other, first) for other in large.METHODS.values()}) == len(large.METHODS)
    repaint(own / "p.png")
    assert painted(own, method, first) != kept


def test_a_method_that_declares_nothing_is_refused(own: Path) -> None:
    for function, cache_of in (
        (lambda model, low: low.y, superres_scores.cache_of),
        (lambda model, place: None, large.cache_of),
    ):
        with pytest.raises(AttributeError):
            cache_of(bench(own), "m", function, [own / "p.png"], ["20x", "5x"], ToyEncoder())  # type: ignore[arg-type]


def test_another_version_of_the_code_keeps_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = CDM(own, bench(own))
    defaults = ldm.support.cache.Identity.__init__.__defaults__
    assert defaults is not None
    monkeypatch.setattr(
        ldm.support.cache.Identity.__init__, "__defaults__", (*defaults[:-1], ldm.support.cache.VERSION + 1)
    )
    assert CDM(own, bench(own)) != before


@pytest.mark.parametrize("scales", [["5x"], ["10x", "5x"]])
@pytest.mark.parametrize(
    "change",
    [
        lambda own: scale_weights(own / "zoomldm", 1.01),
        lambda own: set_key(own / "zoomldm", "model.schedule.end", 0.02),
        lambda own: redraw(own / "a.h5"),
    ],
)
def test_bags_are_made_again_when_what_they_were_made_of_changes(own: Path, scales: list[str], change: Change) -> None:
    def made(**settings: Any) -> bool:
        extract = FeatureExtractor(ZoomLDM.load(own / "zoomldm"), scales, own / "bags", **settings)
        return extract(SlideFile(own / "a.h5"))

    assert made()
    assert not made(batch_size=1)
    assert made(probe=Probe(t=50))
    assert made()
    change(own)
    assert made()
    assert not made()
