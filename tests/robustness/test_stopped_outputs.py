"""What a stopped command leaves in a folder with results is what was there, or is not taken for a result."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image

from benchmarks.fixtures import toy
from benchmarks.fixtures.palettes import palette as toy_palette
from ldm.cli import evaluate, joint, palette, superres, view
from ldm.commands import joint as joint_command
from ldm.commands import palette as palette_command
from ldm.commands import passport as passport_command
from ldm.commands import superres as superres_command
from ldm.errors import UserError
from ldm.images.geojson import ClassRegion
from ldm.images.geojson_writer import write_regions
from ldm.multiscale.palette import save_palette
from ldm.support.files import DiskFull, staged, write_text
from ldm.view.catalogue import catalogue
from ldm.view.site import Site


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def stopped(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, command: Any, options: list[str]) -> None:
    """Run a command that is interrupted when it calls `module.name`."""
    with monkeypatch.context() as patch:
        patch.setattr(module, name, stop)
        with pytest.raises(KeyboardInterrupt):
            command.main(options)


def test_a_painted_image_is_replaced_together_with_its_labels_and_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.run_folder(tmp_path / "zoomldm", "zoomldm")
    save_palette(tmp_path / "p.safetensors", toy_palette())
    for name in ("Tumor", "Fat"):
        write_regions(tmp_path / f"{name}.geojson", [ClassRegion(name, shapely.box(0, 0, 64, 64))])
    shared = ["--model", str(tmp_path / "zoomldm"), "--steps", "2", "--out", str(tmp_path / "out")]
    shared += ["--accelerator", "cpu", "--precision", "fp32"]
    painted = [*shared, "--palette", str(tmp_path / "p.safetensors")]
    joint.main([*painted, "--layout", str(tmp_path / "Tumor.geojson")])
    before = files(tmp_path / "out")
    other = [*painted, "--layout", str(tmp_path / "Fat.geojson")]
    for name in ("contact_sheet", "write_labels"):
        stopped(monkeypatch, joint_command, name, joint, other)
        after = files(tmp_path / "out")
        assert before.items() <= after.items()
        assert all(left.startswith("unfinished") for left in after.keys() - before.keys())
    joint.main(other)
    after = files(tmp_path / "out")
    assert after.keys() == before.keys()
    assert b"Fat" in after["image.geojson"]
    assert after["image.png"] != before["image.png"]
    joint.main([*shared, "--from", "none", "--size", "64"])
    assert not {"image.geojson", "labels.png", "labels.csv"} & files(tmp_path / "out").keys()


def test_the_record_of_an_enlarged_image_is_never_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.run_folder(tmp_path / "zoomldm", "zoomldm")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    given = [str(tmp_path / "a.png"), "--model", str(tmp_path / "zoomldm"), "--out", str(tmp_path / "out")]
    given += ["--scales", "20x,5x", "--device", "cpu", "--method"]
    superres.main([*given, "bicubic"])
    before = files(tmp_path / "out")
    stopped(monkeypatch, superres_command, "sampled", superres, [*given, "zoomldm", "--steps", "2"])
    assert files(tmp_path / "out") == before
    sampling = [*given, "zoomldm", "--steps", "2", "--condition", "none"]
    stopped(monkeypatch, superres_command, "write_layers", superres, sampling)
    after = files(tmp_path / "out")
    assert after["a.png"] != before["a.png"]
    assert not {"superres.json", "preview.html"} & after.keys()
    assert not [name for name in after if name.startswith("layers")]
    superres.main(sampling)
    assert files(tmp_path / "out").keys() >= before.keys()


def test_the_page_and_the_figures_of_a_passport_are_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for name in ("real/s0_0_0", "real/s0_0_1", "real/s1_0_0", "real/s1_0_1", "generated/a", "generated/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(tmp_path / f"{name}.png")
    given = ["passport", "--real", str(tmp_path / "real"), "--generated", str(tmp_path / "generated")]
    given += ["--device", "cpu", "--out", str(tmp_path / "out")]
    evaluate.main(given)
    before = files(tmp_path / "out")
    assert before.keys() == {"passport.html", "passport.json"}
    monkeypatch.setattr(passport_command, "page", lambda *_: "another page")
    stopped(monkeypatch, passport_command.json, "dumps", evaluate, given)
    assert files(tmp_path / "out") == before


def test_a_palette_and_its_picture_are_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.slide(tmp_path / "cohort/a.h5")
    given = ["--cohort", str(tmp_path / "cohort"), "--out", str(tmp_path / "out/p.safetensors"), "--clusters"]
    palette.main([*given, "2"])
    before = files(tmp_path / "out")
    assert before.keys() == {"p.png", "p.safetensors", "p.safetensors.sha256"}
    stopped(monkeypatch, palette_command, "contact_sheet", palette, [*given, "3"])
    assert files(tmp_path / "out") == before
    palette.main([*given, "3"])
    assert files(tmp_path / "out") != before


def test_an_export_that_was_stopped_is_no_page_and_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm.view.site.library", lambda: {"openseadragon.min.js": b""})
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (700, 600, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(rng.integers(0, 255, (60, 60, 3)).astype(np.uint8)).save(tmp_path / "b.png")
    page = tmp_path / "page"
    view.main([str(tmp_path / "b.png"), "--export", str(page)])
    expected = files(page)
    shutil.rmtree(page)
    tile, made = Site.tile, []

    def stop_at_the_third(*given: Any) -> bytes:
        made.append(given)
        return tile(*given) if len(made) < 3 else stop()  # type: ignore[return-value]

    with monkeypatch.context() as patch:
        patch.setattr(Site, "tile", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt, match="the same command begins the page again"):
            view.main([str(tmp_path / "a.png"), "--export", str(page)])
    left = files(page)
    assert "index.html" not in left
    assert len([name for name in left if name.startswith("tiles")]) == 2
    assert [entry.name for entry in catalogue([tmp_path])[0]] == ["a.png", "b.png"]
    view.main([str(tmp_path / "b.png"), "--export", str(page)])
    assert files(page) == expected
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        view.main([str(tmp_path / "b.png"), "--export", str(page)])


def test_staged_files_replace_all_of_their_names_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("old")
    (tmp_path / "mine").write_text("mine")

    def fill() -> None:
        with staged(tmp_path, ["a", "b", "c"]) as stage:
            write_text(stage / "a", "new")
            raise DiskFull(f"{stage / 'a'}: is full")

    with pytest.raises(DiskFull, match=rf"^{tmp_path}/a: is full$"):
        fill()
    assert files(tmp_path) == {"a": b"old", "b": b"old", "mine": b"mine"}
    left = tmp_path / ".staged.0000-1-1.partial"  # of a process elsewhere, which may be at work
    left.mkdir()
    with staged(tmp_path, ["a", "b", "c"]) as stage:
        write_text(stage / "a", "new")
        write_text(stage / "c", "new")
    assert files(tmp_path) == {"a": b"new", "c": b"new", "mine": b"mine"}
    assert left.is_dir()
