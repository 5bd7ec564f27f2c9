"""What is wrong with the files that a command is given is said before a model is loaded or a slide drawn."""

from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from ldm.cli import evaluate, features, joint, sample, superres
from ldm.demo import world
from ldm.errors import UserError
from ldm.pipeline import ZoomLDM


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        (joint, ["--from", "no.h5"], "--from: no.h5 does not exist"),
        (joint, ["--layout", "no.geojson"], "--layout: no.geojson does not exist"),
        (joint, ["--layout", "empty.geojson"], "is JSON, but no GeoJSON"),
        (joint, ["--layout", "a.png"], "has 3 bands of uint8"),
        (joint, ["--layout", "a.png", "--palette", "no.safetensors"], "--palette: no.safetensors does not exist"),
        (joint, ["--layout", "empty.geojson", "--from", "none"], "both say what the image shows"),
        (joint, ["--palette", "a.png"], "--palette: belongs to --layout"),
        (joint, ["--place", "x"], "--place: x"),
        (joint, ["--from", "x" * 5000], "--from: x* does not exist"),
        (sample, ["--from", "no.h5"], "--from: no.h5 does not exist"),
        (superres, ["no.png"], "no.png: does not exist"),
        (superres, ["a.png", "--from", "no.h5"], "--from: no.h5 does not exist"),
        (superres, ["a.png", "--truth", "no.png"], "--truth: no.png does not exist"),
        (features, ["no"], "no holds no prepared slide"),
        (evaluate, ["patches", "--real", "no"], "--real: no does not exist"),
        (evaluate, ["patches", "--generated", "x=no"], "--generated: x: no does not exist"),
        (evaluate, ["patches", "--generated", "x=."], "--scales: none given"),
        (evaluate, ["large", "--real", "no"], "--real: no does not exist"),
        (evaluate, ["superres", "--real", "no"], "--real: no does not exist"),
        (evaluate, ["memorization", "--train", "no"], "--train: no does not exist"),
    ],
)
def test_a_missing_or_contradictory_input_is_told_before_any_work(
    command: ModuleType, options: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("work before its inputs were looked at")

    monkeypatch.setattr(ZoomLDM, "load", work)
    monkeypatch.setattr(world, "generate", work)
    monkeypatch.setattr("data_prep.preparation.generate", work)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("a.png")
    Path("empty.geojson").write_text("{}")
    with pytest.raises(UserError, match=told):
        command.main(options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "empty.geojson"]


@pytest.mark.parametrize("what", ["patches", "large", "superres", "memorization"])
def test_an_unknown_scale_is_told_before_slides_are_drawn(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("slides before the scales were looked at")

    for name in ("held_out_cohort", "held_out_pictures", "training_cohort"):
        monkeypatch.setattr(f"ldm.commands.evaluate.{name}", work)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="scale: 7x is not on the histology ladder"):
        evaluate.main([what, "--scales", "20x,7x", "--out", "out"])
