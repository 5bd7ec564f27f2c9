"""Ablations: their configs train, and the table agrees with the run folders."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import main
from benchmarks import ablation_studies as studies
from benchmarks import ablations
from benchmarks.fixtures import toy
from ldm.config.objects import load_config
from ldm.errors import UserError
from ldm.support.cache import Identity

ROOT = Path(__file__).parents[1]
DEMO = sorted((ROOT / "configs/ablations/demo").glob("*.yaml"))


def written(run: Path, losses: dict[int, dict[str, float]], scores: dict[str, float]) -> None:
    """What a finished and scored run leaves of interest."""
    (run / "metrics" / "step=00000000").mkdir(parents=True)
    keys = ["val/loss", *(f"val/loss/{scale}" for scale in next(iter(losses.values())))]
    lines = [f"loss,step,{','.join(keys)}", "0.9,9" + "," * len(keys)]
    for step, values in losses.items():
        mean = sum(values.values()) / len(values)
        lines.append(f",{step - 1},{mean},{','.join(map(str, values.values()))}")
    (run / "metrics" / "step=00000000" / "metrics.csv").write_text("\n".join(lines) + "\n")
    (run / "weights.safetensors").write_bytes(b"")
    known = {"n": 4, "real": 9, "regions": 7}
    found = {
        scale: known | {"frechet": value, "kid": value / 1000, "kid error": 0.01} for scale, value in scores.items()
    }
    (run / "scores.json").write_text(json.dumps(found))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs of every study: the shared model is better at 1.25x alone, and at no scale than the CNN."""
    for study in studies.STUDIES:
        if study.config == "single_scale":
            scales = [scale for scale, seeds in studies.SINGLE.items() if study in seeds]
            level = 0.5 if scales == ["1.25x"] else 0.3
            found = {40: level + 0.2, 80: level + 0.1, 120: level, 160: level + 0.15, 200: level + 0.4}
        else:
            scales = list(studies.SCALES)
            level = {"shared": 0.4, "shared-again": 0.42, "cnn": 0.39}.get(study.name, 0.6)
            found = {100: level + 0.1, 200: level}
        losses = {step: dict.fromkeys(scales, value) for step, value in found.items()}
        written(tmp_path / study.name, losses, dict.fromkeys(scales, 10 * level))
    return tmp_path


def row(text: str, title: str, name: str) -> list[str]:
    """The cells of row `name` in the table whose corner says `title`."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {title} |"))
    line = next(line for line in lines[start:] if line.startswith(f"| {name} |"))
    return [each.strip() for each in line.strip("|").split("|")[1:]]


def test_the_table_is_filled_from_the_runs(runs: Path) -> None:
    text = studies.report(runs)
    assert row(text, "validation loss", "**one model for all scales**") == ["0.410 ± 0.010"] * 5
    best = row(text, "validation loss", "one model per scale, each at its best")
    assert best == ["0.300"] * 4 + ["0.500 ± 0.000"]
    assert row(text, "validation loss", "one model per scale, each after all its steps")[0] == "0.700"
    assert row(text, "Frechet distance", "CNN Summarizer") == ["3.9"] * 5
    assert row(text, "KID x 1000", "the shared model under contexts of its CDM") == ["6"] * 5
    assert row(text, "Frechet distance", "one model per scale, each at its best")[0] == "3.0"
    ahead = (
        "Sharing against one model per scale: ahead at 1.25x, behind at 20x, 10x, 5x, 2.5x; "
        "transformer against CNN: behind"
    )
    assert ahead in text


def test_some_studies_make_a_smaller_table(runs: Path) -> None:
    text = studies.report(runs, [studies.SHARED[0], *studies.SINGLE["5x"]])
    assert row(text, "validation loss", "one model per scale, each at its best") == ["-", "-", "0.300", "-", "-"]
    assert "CNN" not in text
    assert text.startswith("`python -m benchmarks.ablations shared single-5x`")


@pytest.mark.parametrize("name", ["shared-again", "single-5x", "cdm"])
def test_a_missing_run_is_named(runs: Path, name: str) -> None:
    for path in (runs / name).rglob("*.*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(UserError, match=f"{name} (is no finished run|has no scores)") as error:
        studies.report(runs)
    assert "\n" not in str(error.value)


def test_every_study_has_a_config_and_every_config_a_study() -> None:
    assert {study.config for study in studies.STUDIES} == {path.stem for path in DEMO}


def test_every_ablation_differs_from_what_it_is_compared_with_in_one_thing() -> None:
    for folder, base in (("configs/ablations", "configs/zoomldm_brca.yaml"), ("configs/ablations/demo", None)):
        shared = load_config([ROOT / (base or f"{folder}/shared.yaml")])
        for path in (ROOT / folder).glob("*.yaml"):
            config = load_config([path])
            if "data" in path.name or config.system != "zoomldm":
                continue
            same = ("system", "seed", "ladder", "tile_px", "autoencoder", "init")
            assert [config[key] for key in same] == [shared[key] for key in same], path
            assert config.model.denoiser == shared.model.denoiser, path
            for key in ("optimizer", "ema", "times", "warmup", "decay_from"):
                assert config.training[key] == shared.training[key], path
            share = len(studies.SCALES) if folder.endswith("demo") and path.stem == "single_scale" else 1
            assert config.training.max_steps * share == shared.training.max_steps, path


@pytest.mark.parametrize("name", ["shared", "cnn_summarizer", "colour_encoder", "single_scale", "no_context"])
def test_demo_ablations_train_and_sample(tmp_path: Path, overrides: list[str], name: str) -> None:
    own = [item for item in overrides if not item.startswith("model.summarizer")]
    own += [f"model.summarizer.{key}" for key in (f"embedding_dim={toy.EMBEDDING}", "scales=3", "width=32")]
    own += ["encoder=demo", *(["data.scales=[5x]"] if name == "single_scale" else [])]
    run = tmp_path / "run"
    command = ["--base", str(ROOT / f"configs/ablations/demo/{name}.yaml"), f"run={run}", "training.max_steps=2", *own]
    assert main.main([*command, "training.validate_every=2"]) == 0
    scales = {"5x"} if name == "single_scale" else set(toy.SCALES)
    assert studies.losses(run)[2].keys() == {"", *scales}
    if name == "single_scale":
        ablations.score(studies.SINGLE["5x"][0], run)
        assert studies.scores(run).keys() == scales
        assert studies.scores(run)["5x"]["frechet"] > 0


def test_scores_of_another_identity_are_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identity = Identity("scores", {"model": "m-1"}, {"a.h5": "0123"}, {"seed": 0})
    assert ablations.kept_scores(tmp_path, identity) == {}
    (tmp_path / "scores.json").write_text('{"5x": {"kid": 1.0}}')
    assert ablations.kept_scores(tmp_path, identity) == {"5x": {"kid": 1.0}}
    assert ablations.kept_scores(tmp_path, replace(identity, weights={"model": "m-2"})) == {}
    assert 'scored anew (weights.model: "m-2", kept "m-1")' in capsys.readouterr().out
    assert not (tmp_path / "scores.json").exists()


def test_what_is_missing_is_prepared_then_trained_and_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(ablations, "command", lambda arguments, threads: asked.append(list(arguments)) or 0)
    monkeypatch.chdir(ROOT)
    written(tmp_path / "cnn", {2: {"5x": 1.0}}, {})
    (tmp_path / "no-context" / "checkpoints").mkdir(parents=True)
    (tmp_path / "no-context" / "checkpoints" / "step=00000050.ckpt").touch()
    assert ablations.make(studies.STUDIES, tmp_path) == 0
    prepared = [arguments for arguments in asked if arguments[0] == "data_prep/prepare.py"]
    assert asked[: len(prepared)] == prepared
    assert [arguments[2] for arguments in prepared] == [
        "configs/ablations/data.yaml",
        "configs/ablations/data_colours.yaml",
    ]
    assert ["main.py", "--resume", str(tmp_path / "no-context")] in asked
    assert not any(f"run={tmp_path / 'cnn'}" in arguments for arguments in asked)
    again = next(arguments for arguments in asked if f"run={tmp_path / 'single-1.25x-again'}" in arguments)
    assert "seed=1" in again
    assert "data.scales=[1.25x]" in again
    cdm = next(arguments for arguments in asked if f"run={tmp_path / 'cdm'}" in arguments)
    assert f"zoomldm={tmp_path / 'shared'}" in cdm
    assert next(n for n, each in enumerate(asked) if f"run={tmp_path / 'shared'}" in each) < asked.index(cdm)


def test_a_training_that_fails_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablations, "command", lambda arguments, threads: 75 if arguments[0] == "main.py" else 0)
    monkeypatch.chdir(ROOT)
    assert ablations.main(["single-5x", "--runs", str(tmp_path), "--out", str(tmp_path / "table.md")]) == 75
    assert not (tmp_path / "table.md").exists()


def test_a_run_of_other_settings_is_neither_kept_nor_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablations, "command", lambda arguments, threads: 0)
    monkeypatch.chdir(ROOT)
    study = studies.SINGLE["5x"][0]
    config = load_config([ablations.config_of(study)], ["data.scales=[5x]", "encoder=demo-0123456789ab"])
    written(tmp_path, {2: {"5x": 1.0}}, {})
    OmegaConf.save(config, tmp_path / "config.yaml")
    assert ablations.train(study, tmp_path, 1) == 0
    config.training.max_steps += 1
    OmegaConf.save(config, tmp_path / "config.yaml")
    with pytest.raises(UserError, match="was trained with another training; remove it to train it again"):
        ablations.train(study, tmp_path, 1)
