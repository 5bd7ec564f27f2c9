"""The passport: what is planted in a folder of images is found, and nothing where nothing is planted."""

import json
import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from ldm.cli import evaluate
from ldm.errors import UserError
from ldm.evaluation.passport.folders import images_of

SIDE = 128
SLIDES, EACH = 8, 6
Tile = np.ndarray
Found = dict[str, dict[str, Any]]


@cache
def tiles(slide: int) -> list[Tile]:
    """Textures of two sizes in the colours of a slide: cheap to draw, and no two alike."""
    rng, found = np.random.default_rng(slide), []
    colour, accent = np.array([205, 160, 195]) + rng.normal(0, 8, 3), np.array([-60, -70, -25]) + rng.normal(0, 6, 3)
    for _ in range(EACH):
        coarse, fine = (gaussian_filter(rng.normal(size=(SIDE, SIDE)), sigma) * 3.5 * sigma for sigma in (9, 0.6))
        image = colour + (coarse * rng.uniform(0.4, 1.2) + fine * rng.uniform(0.3, 0.7))[..., None] * accent / 2
        found.append((image + rng.normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8))
    return found


def drawn(slides: range) -> dict[str, Tile]:
    return {f"s{slide:02d}_{k}_0": tile for slide in slides for k, tile in enumerate(tiles(slide))}


def write(folder: Path, images: dict[str, Tile], suffix: str = ".png", **options: Any) -> Path:
    for name, image in images.items():
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, **options)
    return folder


def passport(tmp_path: Path, *more: str | Path) -> Found:
    folders = ["--real", tmp_path / "real", "--generated", tmp_path / "generated"]
    evaluate.main(["passport", *map(str, [*folders, *more]), "--out", str(tmp_path / "out"), "--device", "cpu"])
    return {found["key"]: found for found in json.loads((tmp_path / "out/passport.json").read_text())["figures"]}


def looked(found: Found) -> set[str]:
    return {key for key, figure in found.items() if figure["verdict"] == "look"}


REAL, NEW = range(SLIDES), range(SLIDES, SLIDES + SLIDES // 2)


def test_new_real_images_pass_and_each_figure_is_explained(tmp_path: Path) -> None:
    write(tmp_path / "real/train", drawn(REAL))
    write(tmp_path / "real/test", drawn(range(20, 20 + SLIDES)))
    write(tmp_path / "generated", {f"x{i}": tile for i, tile in enumerate(drawn(NEW).values())})
    found = passport(tmp_path)
    planted = {"memorisation", "nearer_than_all", "copies", "repeats", "jpeg", "interpolation", "size", "detail"}
    assert not looked(found) & {*planted, "shared_patients", "shared_images"}
    assert planted | {"frechet", "kid", "mmd", "precision", "recall", "density", "coverage"} < set(found)
    assert all(figure["says"].endswith(".") and figure["says"].count(". ") == 0 for figure in found.values())
    assert found["recall"]["error"] > 0
    page = (tmp_path / "out/passport.html").read_text()
    assert len(re.findall(r'src="data:image/jpeg;base64,', page)) == page.count("<img")
    assert "http" not in page


def compressed(tile: Tile, tmp_path: Path, quality: int) -> Tile:
    path = tmp_path / "between.jpg"
    Image.fromarray(tile).save(path, quality=quality)
    return np.asarray(Image.open(path))


def enlarged(tile: Tile) -> Tile:
    inner = Image.fromarray(tile[: SIDE // 2, : SIDE // 2])
    return np.asarray(inner.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


PLANTED: dict[str, tuple[Callable[[Tile, Path], Tile], set[str]]] = {
    "crops of compressed ones": (lambda tile, tmp_path: compressed(tile, tmp_path, 75)[3:, 5:], {"jpeg", "size"}),
    "enlarged": (lambda tile, _: enlarged(tile), {"detail"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_files_that_were_made_otherwise_are_found(name: str, tmp_path: Path) -> None:
    change, expected = PLANTED[name]
    write(tmp_path / "real", drawn(REAL))
    write(tmp_path / "generated", {f"x{i}": change(t, tmp_path) for i, t in enumerate(drawn(NEW).values())})
    assert expected <= looked(passport(tmp_path))


def test_a_memorised_set_is_caught(tmp_path: Path) -> None:
    """Half of the generated images are training images, with noise: no file is equal."""
    training, noise = list(drawn(REAL).values())[::2], np.random.default_rng(0)
    copies = [np.clip(t + noise.normal(0, 3, t.shape), 0, 255).astype(np.uint8) for t in training]
    others = list(drawn(NEW).values())
    write(tmp_path / "generated", {f"x{i}": tile for i, tile in enumerate([*copies, *others])})
    write(tmp_path / "train", drawn(REAL))
    write(tmp_path / "real", drawn(range(20, 20 + SLIDES)))
    found = passport(tmp_path, "--train", tmp_path / "train")
    assert found["copies"]["value"] == len(copies)
    assert found["nearer_than_all"]["p_value"] < 1e-4
    assert found["memorisation"]["p_value"] < 0.01
    assert {"memorisation", "nearer_than_all", "copies"} <= looked(found)


def test_a_collapsed_set_is_caught(tmp_path: Path) -> None:
    few, noise = list(drawn(NEW).values())[:2], np.random.default_rng(0)
    images = [np.clip(few[i % 2] + noise.normal(0, 4, few[0].shape), 0, 255).astype(np.uint8) for i in range(24)]
    write(tmp_path / "real", drawn(REAL))
    write(tmp_path / "generated", {f"x{i}": image for i, image in enumerate(images)})
    found = passport(tmp_path)
    assert {"coverage", "recall", "repeats"} <= looked(found)
    assert found["repeats"]["value"] == 22


def test_leaks_between_training_and_test_are_found(tmp_path: Path) -> None:
    train, test = drawn(range(4)), drawn(range(4, 8))
    test["TCGA-A1-A0SB-01Z-00-DX2_0_0"] = tiles(20)[0]
    train["TCGA-a1-a0sb-01Z-00-DX1_0_0"] = tiles(20)[1]
    test["renamed_0_0"] = np.rot90(tiles(0)[0], 2)
    write(tmp_path / "real/train", train)
    write(tmp_path / "real/test", test)
    write(tmp_path / "generated", {f"x{i}": tile for i, tile in enumerate(drawn(NEW).values())})
    found = passport(tmp_path)
    assert {"shared_patients", "shared_images"} <= looked(found)
    assert found["shared_patients"]["names"] == "TCGA-A1-A0SB"
    assert found["shared_images"]["value"] == 1


@pytest.mark.parametrize("name", ["{:04d}", "Tile_{}_0"])
def test_equal_file_names_that_say_no_patient_are_no_leak(name: str, tmp_path: Path) -> None:
    for part, slides in (("train", range(4)), ("test", range(4, 8))):
        write(tmp_path / "real" / part, {name.format(k): tile for k, tile in enumerate(drawn(slides).values())})
    count = len(list((tmp_path / "real/test").iterdir()))
    write(tmp_path / "generated", {f"x{i}": tile for i, tile in enumerate(drawn(NEW).values())})
    found = passport(tmp_path)
    assert found["shared_patients"]["verdict"] == "unknown"
    assert (found["shared_patients"]["value"], found["shared_patients"]["names"]) == (0, "")
    page = (tmp_path / "out/passport.html").read_text()
    assert "no file name says a patient" in page
    assert f"{count} images of {count} patients" in page


def test_names_that_say_no_patient_are_counted_beside_those_that_do(tmp_path: Path) -> None:
    write(tmp_path / "real/train", drawn(range(4)) | {"0001": tiles(20)[0]})
    write(tmp_path / "real/test", drawn(range(3, 7)) | {"0001": tiles(21)[0]})
    write(tmp_path / "generated", {f"x{i}": tile for i, tile in enumerate(drawn(NEW).values())})
    found = passport(tmp_path)
    assert found["shared_patients"]["names"] == "s03"
    assert re.search(
        r"1 \(s03\); the names of 2 of \d+ images say no patient", (tmp_path / "out/passport.html").read_text()
    )


def labelled(slides: range, swapped: bool = False) -> dict[str, Tile]:
    """Tiles as they are, and darker ones; `swapped`: with each other's label."""
    names = ("dark", "light") if swapped else ("light", "dark")
    images = {f"{names[0]}/{name}": tile for name, tile in drawn(slides).items()}
    return images | {f"{names[1]}/{name}": (tile * 0.8).astype(np.uint8) for name, tile in drawn(slides).items()}


def test_training_on_generated_images_is_tested_on_real_ones(tmp_path: Path) -> None:
    write(tmp_path / "real", labelled(REAL))
    write(tmp_path / "generated", labelled(NEW))
    found = passport(tmp_path)["synthetic_training"]
    assert min(found["value"], found["real"]) > 0.95
    write(tmp_path / "again/real", labelled(REAL))
    write(tmp_path / "again/generated", labelled(NEW, swapped=True))
    wrong = passport(tmp_path / "again")["synthetic_training"]
    assert wrong["value"] < 0.2
    assert wrong["verdict"] == "look"


def test_more_generated_than_real_images_of_two_labels_are_like_real_ones(tmp_path: Path) -> None:
    """As many of both labels are compared, not the first label alone."""
    write(tmp_path / "real", {f"{name}x": tile for name, tile in labelled(REAL).items()})
    twice = {f"{name}_{k}": np.roll(t, 40 * k, 1) for name, t in labelled(range(8, 16)).items() for k in (0, 1)}
    write(tmp_path / "generated", twice)
    found = passport(tmp_path)
    assert found["frechet"]["n"] < len(twice)
    assert found["frechet"]["value"] < 3 * found["frechet"]["real"]


def test_labels_may_be_links_and_hidden_files_are_no_images(tmp_path: Path) -> None:
    images = labelled(range(2))
    for label in ("light", "dark"):
        write(tmp_path / "elsewhere", {name: t for name, t in images.items() if name.startswith(label)})
        (tmp_path / "real").mkdir(exist_ok=True)
        (tmp_path / "real" / label).symlink_to(tmp_path / "elsewhere" / label)
    (tmp_path / "elsewhere/light/back").symlink_to(tmp_path / "real")
    write(tmp_path / "real", {".thumbnails/light/x": tiles(0)[0]})
    (tmp_path / "real/._a.png").write_bytes(b"no image")
    found = images_of(tmp_path / "real", "--real")
    assert len(found) == len(images)
    assert {image.label for image in found} == {"light", "dark"}


def test_what_few_patients_cannot_tell_is_said_in_words(tmp_path: Path) -> None:
    write(tmp_path / "real", drawn(range(2)))
    write(tmp_path / "generated", {f"x{i}": tile for i, tile in enumerate(drawn(NEW).values())})
    figure = passport(tmp_path)["memorisation"]
    assert figure["verdict"] == "unknown"
    page = (tmp_path / "out/passport.html").read_text()
    assert re.search(r"0\.\d+, too few held-out patients or images for a p-value", page)
    assert ">nan" not in page
    assert " nan" not in page


def test_names_of_files_cannot_write_into_the_page(tmp_path: Path) -> None:
    hostile = ["<script>alert(1)<", '"><img src=x onerror=alert(1)>', "&amp;\udcff", "a' onmouseover='x"]
    images = list(drawn(NEW).values())
    write(tmp_path / "real", drawn(REAL))
    write(
        tmp_path / "generated", {f"{name}_{k}": images[4 * i + k] for i, name in enumerate(hostile) for k in range(4)}
    )
    passport(tmp_path)
    tags: list[tuple[str, list[str]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, [name for name, _ in attrs]))

    Reader().feed((tmp_path / "out/passport.html").read_text(encoding="utf-8"))
    assert not [tag for tag, _ in tags if tag == "script"]
    assert {name for _, names in tags for name in names} <= {"alt", "src", "class", "lang", "charset"}
    assert all(set(names) == {"alt", "src"} for tag, names in tags if tag == "img")


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "real", drawn(range(1)))
    (tmp_path / "generated").mkdir()
    with pytest.raises(UserError, match=r"--generated: .* holds 0 images; expected at least 2"):
        passport(tmp_path)
    with pytest.raises(UserError, match=r"--train: .* is, or is inside, --real"):
        passport(tmp_path, "--train", tmp_path / "real")
    write(tmp_path / "generated", {"a": tiles(1)[0][:20], "b": tiles(1)[1]})
    with pytest.raises(UserError, match=r"a\.png: is 128x20 px; expected at least 32"):
        passport(tmp_path)
    (tmp_path / "generated/a.png").write_text("no")
    with pytest.raises(UserError, match=r"a\.png: cannot be read as an image"):
        passport(tmp_path)
    assert not (tmp_path / "out").exists()


def test_images_beside_the_folders_of_parts_are_not_left_out_silently(tmp_path: Path) -> None:
    write(tmp_path / "generated", drawn(range(2)))
    for folder, slides in (("train", range(4)), ("test", range(4, 6)), ("external", range(6, 7))):
        write(tmp_path / "real" / folder, drawn(slides))
    with pytest.raises(UserError, match=r"--real: 6 of 42 images lie in no folder of training or held-out ones"):
        passport(tmp_path)
