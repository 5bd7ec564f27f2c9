"""Complete runs through the command: resuming, and messages for mistakes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import main
from benchmarks.fixtures import toy, training_cohort
from data_prep import prepare
from data_prep.preparation import RESUMABLE
from ldm.checkpoint import load_weights, save_weights
from ldm.data.datamodule import CohortData
from ldm.errors import UserError
from ldm.pipeline import ZoomLDM
from ldm.training.checkpoints import newest_checkpoint
from ldm.training.zoomldm import autoencoder_of

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "configs/demo/zoomldm.yaml")
LEFT = {"slide_id": "s1", "status": "waiting"}


def run(folder: Path, overrides: list[str], steps: int, *more: str) -> Path:
    assert main.main(["--base", DEMO, f"run={folder}", f"training.max_steps={steps}", *overrides, *more]) == 0
    os.environ.pop("ZOOMLDM_RUN", None)
    return folder


def test_a_finished_run_samples_and_keeps_two_checkpoints(tmp_path: Path, overrides: list[str]) -> None:
    folder = run(tmp_path / "run", overrides, 10)
    images = ZoomLDM.load(folder).sample("5x", embeddings=[torch.randn(toy.EMBEDDING, 4, 4)], steps=2)
    assert images.shape == (1, toy.TILE_PX, toy.TILE_PX, 3)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        f"step={step:08d}.ckpt{end}" for step in (8, 10) for end in ("", ".sha256")
    ]
    assert (folder / "samples" / "step=00000010.png").is_file()


def test_gradients_are_clipped_in_mixed_precision(tmp_path: Path, overrides: list[str]) -> None:
    mixed = ["training.precision=bf16-mixed", "training.clip=1.0", "training.optimizer={target: torch.optim.AdamW}"]
    assert (run(tmp_path / "run", overrides, 2, *mixed) / "weights.safetensors").is_file()


def test_the_best_validation_is_kept_and_survives_a_stop(tmp_path: Path, overrides: list[str]) -> None:
    rough = ["training.validate_every=4", "training.keep=best"]
    rough += ["training.optimizer={target: torch.optim.SGD, lr: 0.01, maximize: true}"]  # every step is a step back
    overfitted = run(tmp_path / "overfitted", overrides, 12, *rough)
    with open(next(overfitted.glob("metrics/*/metrics.csv"))) as file:
        found = {int(row["step"]) + 1: float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]}
    best = min(found, key=found.__getitem__)
    assert best == 4
    stopped = run(tmp_path / "stopped", overrides, best, *rough, "training.keep=last")
    assert main.main(["--resume", str(run(tmp_path / "cut", overrides, 8, *rough)), "training.max_steps=12"]) == 0
    one, two, three = (
        load_weights(folder / "weights.safetensors") for folder in (overfitted, stopped, tmp_path / "cut")
    )
    assert all(torch.equal(one[name], two[name]) and torch.equal(one[name], three[name]) for name in one)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, overrides: list[str]) -> None:
    folder = run(tmp_path / "run", overrides, 8) / "checkpoints"
    newest = folder / "step=00000008.ckpt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert newest_checkpoint(folder).name == "step=00000004.ckpt"


def test_a_half_prepared_cohort_is_finished_first_or_refused(
    tmp_path: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cohort"
    toy.slide(folder / "s0.h5")
    (folder / "report.json").write_text(json.dumps([{"slide_id": "s0", "status": "kept"}, LEFT, LEFT]))
    with pytest.raises(UserError, match=r"is incomplete, 2 slides are pending \(s1 first\); run the same command of"):
        run(tmp_path / "run", [*overrides, f"data.cohort={folder}"], 1)
    asked: list[list[str]] = []
    monkeypatch.setattr(prepare, "main", lambda arguments: asked.append(arguments) or RESUMABLE)
    preparation = tmp_path / "data.yaml"
    shutil.copy(ROOT / "configs/demo/data.yaml", tmp_path / "demo.yaml")
    preparation.write_text(
        f"extends: demo.yaml\nout: {folder}\nladder: {{scales: {len(toy.SCALES)}}}\ntile_px: {toy.TILE_PX}\n"
    )
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "run", [*overrides, f"data.cohort={folder}", f"data.prepare={preparation}"], 1)
    assert stopped.value.code == RESUMABLE
    assert asked[0][:3] == ["--config", str(preparation), f"out={folder}"]


def test_a_wrong_cohort_is_told_and_nothing_is_drawn(tmp_path: Path, overrides: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, what in (("empty", ""), ("file", r" \(it is a file\)"), ("mistyped", r" \(it does not exist\)")):
        folder = tmp_path / name
        with pytest.raises(UserError, match=rf"data\.cohort: {folder} holds no prepared slide{what}; run zoomldm"):
            run(tmp_path / "run", [*overrides, f"data.cohort={folder}"], 1)
    assert not (tmp_path / "mistyped").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_weights_that_are_not_there_are_told_before_anything_is_prepared(tmp_path: Path) -> None:
    for system, key in (("zoomldm", "autoencoder"), ("zoomldm", "init"), ("cdm", "zoomldm"), ("vq", "init")):
        base = str(ROOT / f"configs/demo/{system}.yaml")
        with pytest.raises(UserError, match=rf"{key}: {tmp_path / 'absent'} does not exist"):
            main.main(["--base", base, f"run={tmp_path / 'run'}", f"{key}={tmp_path / 'absent'}"])
        with pytest.raises(UserError, match=rf"{key}: {tmp_path} has no weights.safetensors"):
            main.main(["--base", base, f"run={tmp_path / 'run'}", f"{key}={tmp_path}"])
    assert not (tmp_path / "run").exists()


def test_the_cdm_trains_on_a_finished_run(tmp_path: Path, overrides: list[str]) -> None:
    zoomldm = run(tmp_path / "zoomldm", overrides, 2)
    config = str(ROOT / "configs/demo/cdm.yaml")
    small, folder = training_cohort.of_system("cdm", overrides, zoomldm), tmp_path / "cdm"
    assert main.main(["--base", config, f"run={folder}", "training.max_steps=10", *small]) == 0
    drawn = ZoomLDM.load(zoomldm, cdm=folder).sample_context("10x", 2, steps=3)
    assert drawn.shape == (2, 65, 32)
    assert drawn.isfinite().all()


def launch(folder: Path, overrides: list[str], *more: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "main.py"), "--base", DEMO, f"run={folder}", *overrides, *more]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_scheduler_s_signal_saves_and_asks_for_a_requeue(tmp_path: Path, overrides: list[str]) -> None:
    process = launch(tmp_path / "run", overrides, "training.max_steps=100000")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoints").glob("*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == RESUMABLE, errors
    assert "--resume" in out
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").is_file()


def test_a_decoder_trained_alone_keeps_every_latent(tmp_path: Path, overrides: list[str]) -> None:
    autoencoder = next(item.removeprefix("autoencoder=") for item in overrides if item.startswith("autoencoder="))
    alone = [
        *training_cohort.of_system("vq", overrides),
        f"init={autoencoder}",
        "data.crop_px=32",
        "training.loss={target: ldm.training.losses.TextureLoss, adversary_weight: 0.2, width: 8}",
        "training.frozen=[encoder, quant_conv, quantize]",
        "training.smooth=0",
        "training.revive_every=0",
        "training.normalise_latents=true",  # of no effect, as latents are not trained
        "training.max_steps=5",
    ]
    config = str(ROOT / "configs/demo/vq.yaml")
    assert main.main(["--base", config, f"run={tmp_path / 'run'}", *alone]) == 0
    before, after = (
        load_weights(Path(autoencoder) / "weights.safetensors"),
        load_weights(tmp_path / "run/weights.safetensors"),
    )
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_an_autoencoder_is_taken_when_it_encodes_like_that_of_the_latents(tmp_path: Path) -> None:
    training_cohort.make(tmp_path)
    data = CohortData(cohort=str(tmp_path / "cohort"), batch_size=1)
    weights = load_weights(tmp_path / "vq/weights.safetensors")
    for part in ("decoder", "quant_conv"):
        changed = shutil.copytree(tmp_path / "vq", tmp_path / part) / "weights.safetensors"
        save_weights(changed, {name: 2 * tensor if f".{part}." in name else tensor for name, tensor in weights.items()})
    for same in ("vq", "decoder"):
        autoencoder_of(data, str(tmp_path / same))
    with pytest.raises(UserError, match=r"quant_conv-\w{12}, but the latents of .* were made by vq-\w{12}; prepare"):
        autoencoder_of(data, str(tmp_path / "quant_conv"))
