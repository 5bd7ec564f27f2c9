"""R13: something that a cached result depends on changes under the same path or option, and the command is run again.

Each trial makes a result (or a part: a sampling is stopped in the middle), changes one thing, and makes it again in the
same folder. The result must equal that in a new folder. The commands run on the toy model, in this process.
"""

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from omegaconf import OmegaConf
from PIL import Image
from tqdm import tqdm

from benchmarks.fixtures import toy
from benchmarks.fixtures.interrupted import interrupted_after
from benchmarks.robustness.flips import digest
from ldm.checkpoint import load_weights, save_weights
from ldm.cli import evaluate, features, joint, superres
from ldm.data.bags import read_bag


class Change(NamedTuple):
    """A change of a file in the world's folder, or added options."""

    name: str
    apply: Callable[[Path], None] = lambda world: None
    options: tuple[str, ...] = ()


class Result(NamedTuple):
    """A command that caches something: make(world, out, options) returns the digest of its output."""

    name: str
    make: Callable[[Path, Path, tuple[str, ...]], str]
    changes: tuple[Change, ...]
    stopped: bool = False
    """whether the first command is stopped in the middle"""


def world_in(folder: Path) -> Path:
    toy.run_folder(folder / "zoomldm", "zoomldm")
    toy.run_folder(folder / "cdm", "cdm")
    for number, name in enumerate("ab"):
        toy.slide(folder / f"cohort/{name}.h5")
        for part in range(2):
            _paint(folder / f"pictures/{name}_{64 * part}_0.png", 2 * number + part)
    return folder


def _paint(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    small = np.random.default_rng(seed).integers(60, 200, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(path)


KEPT = ("cond_stage_model.", "first_stage_model.decoder.", "first_stage_model.post_quant_conv.")


def scale_weights(run: Path, factor: float) -> None:
    """Multiply the weights of a run; a model keeps what its CDM and preview head were trained on."""
    path = run / "weights.safetensors"
    tensors = load_weights(path)
    same = {name: tensor for name, tensor in tensors.items() if name.startswith(KEPT)}
    save_weights(path, {name: factor * tensor for name, tensor in tensors.items()} | same)


def set_key(run: Path, key: str, value: object) -> None:
    """Change a key of a run's config to a value that the weights fit too, and accept the edit."""
    path = run / "config.yaml"
    config = OmegaConf.load(path)
    assert OmegaConf.select(config, key, default=None) != value
    OmegaConf.update(config, key, value)
    OmegaConf.save(config, path)
    path.with_name("config.yaml.sha256").unlink()


def reweight(run: str) -> Change:
    return Change(f"weights of {run}", lambda world: scale_weights(world / run, 1.05))


def reconfigure(run: str, key: str, value: object) -> Change:
    return Change(f"{key} of {run}", lambda world: set_key(world / run, key, value))


def _redraw(world: Path) -> None:
    """Other embeddings and latents, with the same attributes and file times."""
    for path in (world / "cohort").glob("*.h5"):
        times, other = path.stat(), np.random.default_rng(1)
        path.unlink()
        with patch.object(np.random, "default_rng", lambda seed, other=other: other):
            toy.slide(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _repaint(world: Path) -> None:
    for number, path in enumerate(sorted((world / "pictures").iterdir())):
        times = path.stat()
        _paint(path, 10 + number)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def option(*words: str) -> Change:
    return Change(" ".join(words), options=words)


MODEL = (
    reweight("zoomldm"),
    reconfigure("zoomldm", "model.prediction", "eps"),
    reconfigure("zoomldm", "model.schedule.end", 0.03),
    reconfigure("zoomldm", "model.denoiser.heads", 2),
)
CDM = (reweight("cdm"), reconfigure("cdm", "model.cdm.heads", 4))
SLIDES, PICTURES = Change("slides", _redraw), Change("pictures", _repaint)


def _figures(path: Path) -> str:
    records = json.loads(path.read_text())["records"]
    return digest([{key: value for key, value in record.items() if key != "CPU s"} for record in records])


def _evaluated(command: str, *given: str) -> Callable[[Path, Path, tuple[str, ...]], str]:
    def make(world: Path, out: Path, options: tuple[str, ...]) -> str:
        paths = [word.replace("WORLD", str(world)) for word in given]
        model = ["--model", str(world / "zoomldm"), "--accelerator", "cpu", "--space", "demo", "--precision", "fp32"]
        evaluate.main([command, *model, *paths, "--count", "2", "--out", str(out), *options])
        return _figures(out / command / f"{command}.json")

    return make


def _joint(origin: str) -> Callable[[Path, Path, tuple[str, ...]], str]:
    def make(world: Path, out: Path, options: tuple[str, ...]) -> str:
        model = ["--model", str(world / "zoomldm"), "--cdm", str(world / "cdm"), "--accelerator", "cpu"]
        given = ["--from", origin.replace("WORLD", str(world)), "--size", "64", "--steps", "3", "--precision", "fp32"]
        joint.main([*model, *given, "--out", str(out), *options])
        return digest(np.asarray(Image.open(out / "image.png")))

    return make


def _enlarged(world: Path, out: Path, options: tuple[str, ...]) -> str:
    picture, model = world / "pictures/a_0_0.png", ["--model", str(world / "zoomldm"), "--device", "cpu"]
    given = ["--from", str(world / "cohort/a.h5"), "--steps", "3", "--precision", "fp32", "--out", str(out)]
    superres.main([str(picture), *model, *given, *options])
    return digest(np.asarray(Image.open(out / picture.name)))


def _bags(world: Path, out: Path, options: tuple[str, ...]) -> str:
    model = ["--model", str(world / "zoomldm"), "--accelerator", "cpu", "--precision", "fp32", "--scales", "10x,5x"]
    features.main([str(world / "cohort"), *model, "--out", str(out), *options])
    return digest([read_bag(path).features for path in sorted(out.rglob("*.h5"))])


SAMPLING = (
    option("--guidance", "3"),
    option("--guidance", "3", "--guidance-interval", "0.3,3"),
    option("--steps", "3"),
    option("--sampler", "ddim"),
    option("--seed", "1"),
)
JOINT = (option("--guidance", "4"), option("--steps", "4"), option("--seed", "1"), option("--seam", "none"))
CASES = (
    Result("sampling from a slide", _joint("WORLD/cohort/a.h5"), (*MODEL, SLIDES, *JOINT), stopped=True),
    Result("sampling from the CDM", _joint("cdm"), (*MODEL[:2], *CDM, *JOINT[:1]), stopped=True),
    Result("super-resolution", _enlarged, (*MODEL, SLIDES, PICTURES, *JOINT[:3]), stopped=True),
    Result(
        "samples of patches",
        _evaluated("patches", "--real", "WORLD/cohort", "--cdm", "WORLD/cdm", "--scales", "5x", "--steps", "2"),
        (*MODEL, *CDM, SLIDES, *SAMPLING),
    ),
    Result(
        "samples of super-resolution",
        _evaluated("superres", "--real", "WORLD/pictures", "--methods", "none"),
        (*MODEL[:2], PICTURES, option("--seed", "1"), option("--scales", "20x,10x")),
    ),
    Result("bags", _bags, (*MODEL, SLIDES, option("--t", "50"), option("--seed", "1"), option("--clean"))),
)


def trials() -> Iterator[tuple[Result, Change]]:
    """Trials of all cases, in turn."""
    for number in range(max(len(case.changes) for case in CASES)):
        yield from ((case, case.changes[number]) for case in CASES if number < len(case.changes))


def outcome(folder: Path, case: Result, change: Change) -> str:
    """Returns "made anew", "unmoved" (the change has no effect), or the error "silent"."""
    world, kept, fresh = world_in(folder / "world"), folder / "kept", folder / "fresh"
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        if case.stopped:
            with interrupted_after(2), suppress(KeyboardInterrupt):
                case.make(world, kept, ())
            before = case.make(world, folder / "before", ())
        else:
            before = case.make(world, kept, ())
        change.apply(world)
        again, expected = (case.make(world, out, change.options) for out in (kept, fresh))
    if again != expected:
        return "silent"
    return "unmoved" if again == before else "made anew"


def measure(folder: Path, count: int) -> str:
    """Up to `count` trials; names those whose result did not change."""
    found: Counter[str] = Counter()
    for number, (case, change) in enumerate(tqdm(list(islice(trials(), count)), desc="changes", unit="change")):
        ended = outcome(folder / str(number), case, change)
        found[ended] += 1
        if ended != "made anew":
            tqdm.write(f"{case.name}, {change.name}: {ended}")
        shutil.rmtree(folder / str(number))
    others = f", {found['unmoved']} without a difference" if found["unmoved"] else ""
    return f"{found['silent']} silent of {found.total()} changes: {found['made anew']} made anew{others}"
