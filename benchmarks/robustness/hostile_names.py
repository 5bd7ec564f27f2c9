"""Hostile names: ids, slides and paths that try to leave the output folder, or to inject HTML."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.fixtures import toy
from benchmarks.robustness.flips import DEMO
from data_prep.prepare import main as prepare
from ldm.cli import sample as sample_patches
from ldm.data.datamodule import CohortData
from ldm.data.h5 import SlideFile
from ldm.data.split_file import NAME, Shares, Split, extend, write_split
from ldm.doctor.cohort_check import cohort

SETTINGS = ["ladder={kind: histology, scales: 1}", "encoder={name: demo}", "autoencoder=null", "tile_px=64", "mpp=0.5"]
PREPARATION = ["--config", str(DEMO.with_name("data.yaml")), "slides=slides", "out=out", "generate=null", "workers=0"]
PREPARATION += ["pattern='**/*'", *SETTINGS]
HIDDEN = 3
"""number of NAMES that are slides: those that begin with a dot are not"""
INJECTION = "<script>alert(1)</script>"
NAMES = [
    INJECTION.replace("/", ""),
    '"><img src=x onerror=alert(1)>',
    "..",
    "..%2f..%2fescaped",
    "..\\..\\escaped",
    "a\nb",
    "$(mkdir executed)",
    "--out=escaped",
    "\udcff",
    "\x1b]2;executed\x07",
    "..a/..b/c",
    "x" * 250,
]


def _prepared(folder: Path) -> None:
    """Slides with NAMES: outputs stay in the output folder, and tags are escaped in the page."""
    pixels = np.random.default_rng(0).integers(80, 200, (256, 256, 3), np.uint8)
    pixels[..., 1] //= 2  # pink enough to be tissue
    for name in NAMES:
        slide = folder / "slides" / f"{name}.png"
        slide.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(slide, "PNG")
    before = set(folder.rglob("*"))
    prepare(PREPARATION)
    made = set(folder.rglob("*")) - before
    outside = [path for path in made if (folder / "out").resolve() not in (path.resolve(), *path.resolve().parents)]
    pages = [path for path in made if path.suffix in (".html", ".svg")]
    injected = [page for page in pages for tag in ("<script>alert", "<img src=x") if tag in page.read_text()]
    if outside or injected:
        raise RuntimeError(f"escaped: {outside} {injected}")
    assert len(list((folder / "out").rglob("*.h5"))) == len(NAMES) - HIDDEN


def _linked(folder: Path) -> None:
    """A slide that is a link to a file of the system."""
    (folder / "slides").mkdir()
    (folder / "slides" / "passwd.svs").symlink_to("/etc/passwd")
    prepare(PREPARATION)


def _id(slide_id: str) -> Callable[[Path], None]:
    """A prepared slide with a hostile id: sampled from, checked, opened for training."""

    def attack(folder: Path) -> None:
        path = toy.slide(folder / "cohort" / "s.h5", slide_id=slide_id)
        run = toy.run_folder(folder / "run", "zoomldm")
        sample_patches.main(
            [
                *("--model", str(run), "--from", str(path), "--out", str(folder / "out")),
                *("--count", "1", "--steps", "2", "--device", "cpu", "--scales", "5x"),
            ]
        )
        list(cohort(folder / "cohort"))
        assert SlideFile(path).attrs["slide_id"] == slide_id
        write_split(folder / "cohort" / NAME, extend(Split({}, Shares()), {slide_id: slide_id}))
        CohortData(cohort=str(folder / "cohort"), batch_size=1)

    return attack


ATTACKS: dict[str, Callable[[Path], None]] = {
    "slides with hostile names": _prepared,
    "slide that is a link to a file of the system": _linked,
    "id that leads above": _id("../../escaped"),
    "id that is absolute": _id("/tmp/escaped"),
    "id with a script": _id(INJECTION),
    "id with a line break": _id("a\nb"),
    "id without end": _id("x" * 60_000),
}
