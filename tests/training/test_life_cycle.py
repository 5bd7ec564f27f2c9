"""A run from its start to its weights file: stopped at any point it continues, with the same result."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open

import main
from benchmarks.fixtures import toy, training_cohort
from benchmarks.fixtures.training_cohort import losses, newest
from ldm.checkpoint import ABOUT, load_weights, save_weights
from ldm.commands.train import DIVERGED, run_folder
from ldm.errors import UserError
from ldm.support.files import sha256, write_sidecar
from ldm.training.callbacks import Watch
from ldm.training.checkpoints import Checkpoints, newest_checkpoint
from ldm.training.loggers import open_loggers
from ldm.training.stopping import INTERRUPTED, RESUMABLE, Stopped

ROOT = Path(__file__).parents[2]
STEPS = 6
LENGTHS = [f"training.max_steps={STEPS}", "training.validate_every=3", "training.checkpoint_every=4"]


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, for the systems that stand on one."""
    return toy.run_folder(tmp_path_factory.mktemp("zoomldm") / "run", "zoomldm")


def start(config: str, folder: Path, overrides: list[str], *more: str) -> int:
    status = main.main(["--base", str(ROOT / f"configs/demo/{config}.yaml"), f"run={folder}", *overrides, *more])
    os.environ.pop("ZOOMLDM_RUN", None)
    return status


def arguments_of(system: str, overrides: list[str], steered: Path) -> tuple[str, list[str]]:
    """The demo config of a system and what makes it small."""
    if system == "best":
        return "zoomldm", [*overrides, "training.keep=best", "training.ema=0.1", "training.warmup=0"]
    return system, overrides if system == "zoomldm" else training_cohort.of_system(system, overrides, steered)


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Ends a run right after its first or last save: nothing that Lightning or main.py does later happens."""

    def arrange(last: bool) -> None:
        save = Checkpoints._save

        def save_and_stop(self: Checkpoints, trainer: Any, module: Any) -> None:
            save(self, trainer, module)
            if not last or trainer.global_step >= trainer.max_steps:
                raise Stopped(signal.SIGTERM)

        monkeypatch.setattr(Checkpoints, "_save", save_and_stop)

    return arrange


SLOW = [
    pytest.param(system, marks=pytest.mark.slow)
    for system in ("zoomldm", "cdm", "controlnet_sr", "superres_baseline", "preview")
]


@pytest.mark.parametrize("system", ["best", "vq", *SLOW])
def test_a_stopped_run_writes_the_same_weights(
    system: str, tmp_path: Path, overrides: list[str], steered: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Any
) -> None:
    """Stopped at its first checkpoint, between its last one and all that follows, and after it had finished."""
    config, small = arguments_of(system, overrides, steered)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start(config, whole, [*small, *LENGTHS]) == 0
    expected = sha256(whole / "weights.safetensors")
    stop_after(last=False)
    assert start(config, stopped, [*small, *LENGTHS]) == RESUMABLE
    monkeypatch.undo()
    stop_after(last=True)
    assert main.main(["--resume", str(stopped)]) == RESUMABLE
    monkeypatch.undo()
    assert not (stopped / "weights.safetensors").exists()
    for folder in (stopped, whole):
        assert main.main(["--resume", str(folder)]) == 0
        assert sha256(folder / "weights.safetensors") == expected
    if system == "best":  # or the last validation, which the stopped run had not reached, would not matter
        assert newest_best(whole) == STEPS


def test_a_run_stopped_at_a_validation_s_own_step_writes_the_same_best_weights(
    tmp_path: Path, overrides: list[str], steered: Path, stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is written before the validation, the only one of the run."""
    config, small = arguments_of("best", overrides, steered)
    lengths = ["training.max_steps=4", "training.validate_every=3", "training.checkpoint_every=3"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start(config, whole, [*small, *lengths]) == 0
    stop_after(last=False)
    assert start(config, stopped, [*small, *lengths]) == RESUMABLE
    monkeypatch.undo()
    assert not list(stopped.glob("samples/*"))
    assert main.main(["--resume", str(stopped)]) == 0
    assert newest_best(whole) == newest_best(stopped) == 3
    assert sha256(whole / "weights.safetensors") == sha256(stopped / "weights.safetensors")
    assert [path.name for path in stopped.glob("samples/*")] == [path.name for path in whole.glob("samples/*")]
    assert losses(whole, "val/loss") == losses(stopped, "val/loss")


def test_best_weights_are_called_by_the_step_that_they_are_of(
    tmp_path: Path, overrides: list[str], steered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run killed after a validation left better ones than the checkpoint knows of."""
    config, small = arguments_of("best", overrides, steered)
    lengths = ["training.max_steps=3", "training.validate_every=2", "training.checkpoint_every=3"]
    run = tmp_path / "run"
    assert start(config, run, [*small, *lengths]) == 0
    assert newest_best(run) == 2
    best = run / "checkpoints" / "best.safetensors"
    better = {name: 2 * weight for name, weight in load_weights(best).items()}
    save_weights(best, better, {"step": "3"})
    assert main.main(["--resume", str(run)]) == 0
    assert newest_best(run) == 3
    assert "best.safetensors is of step 3, found lower before the run was stopped" in capsys.readouterr().err
    assert torch.equal(*(next(iter(load_weights(path).values())) for path in (best, run / "weights.safetensors")))


@pytest.fixture
def press(monkeypatch: pytest.MonkeyPatch, python_sigint: None) -> Callable[..., None]:
    """Sends signals to a run after its second step."""

    def arrange(*numbers: int) -> None:
        watch = Watch.on_train_batch_end

        def pressed(self: Watch, trainer: Any, *rest: Any) -> None:
            for number in numbers if trainer.global_step == 2 else ():
                signal.raise_signal(number)
            watch(self, trainer, *rest)

        monkeypatch.setattr(Watch, "on_train_batch_end", pressed)

    return arrange


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_keeps_its_losses(number: int, tmp_path: Path, overrides: list[str], press: Any) -> None:
    press(number)
    assert start("zoomldm", tmp_path / "run", [*overrides, *LENGTHS]) in (RESUMABLE, INTERRUPTED)
    (last,) = losses(tmp_path / "run", "loss").items()
    assert last[0] == 1  # counted from 0
    assert last[1] > 0


def test_losses_are_on_disk_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    """So a kill takes none of them."""
    (logger,) = open_loggers(["csv"], tmp_path, "step=00000000")
    for step in (9, 19):
        logger.log_metrics({"loss": step}, step)
        assert losses(tmp_path, "loss")[step] == step


def newest_best(folder: Path) -> int:
    with safe_open(folder / "weights.safetensors", "pt") as file:
        return int(json.loads(file.metadata()[ABOUT])["step"])


def test_a_run_stopped_before_its_first_checkpoint_goes_on(
    tmp_path: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("zoomldm", tmp_path / "whole", [*overrides, *LENGTHS]) == 0
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Watch, "on_train_batch_end", lambda *_: (_ for _ in ()).throw(Stopped(signal.SIGUSR1)))
        assert start("zoomldm", run, [*overrides, *LENGTHS]) == RESUMABLE
    assert f"stopped; continue with: zoomldm train --resume {run}" in capsys.readouterr().out
    assert (run / "config.yaml").is_file()
    assert newest_checkpoint(run / "checkpoints") is None
    with pytest.raises(UserError, match=f"run: .* exists; continue it with --resume {run}"):
        start("zoomldm", run, [*overrides, *LENGTHS])
    assert main.main(["--resume", str(run)]) == 0
    assert sha256(run / "weights.safetensors") == sha256(tmp_path / "whole" / "weights.safetensors")


def test_what_there_is_to_resume(tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"holds no config.yaml: no run began there"):
        main.main(["--resume", str(tmp_path)])
    run = tmp_path / "run"
    assert start("zoomldm", run, [*overrides, *LENGTHS]) == 0
    with pytest.raises(UserError, match=r"training.max_steps: 5, but .* has trained 6 steps"):
        main.main(["--resume", str(run), "training.max_steps=5"])
    for path in (run / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole; copy one back or, to begin again at step 0"):
        main.main(["--resume", str(run)])
    for path in (run / "checkpoints").glob("*.sha256"):  # a kill between the two names of the first checkpoint
        path.unlink()
    assert newest_checkpoint(run / "checkpoints") is None
    assert "unfinished, it has no sha256" in capsys.readouterr().out


@pytest.mark.parametrize(("times", "saved"), [(1, 2), (2, None)])
def test_ctrl_c_saves_the_step_and_a_second_one_stops_at_once(
    times: int, saved: int | None, tmp_path: Path, overrides: list[str], press: Any
) -> None:
    press(*[signal.SIGINT] * times)
    assert start("zoomldm", tmp_path / "run", [*overrides, *LENGTHS]) == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    found = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert found == (None if saved is None else tmp_path / f"run/checkpoints/step={saved:08d}.ckpt")


def test_a_loss_that_is_not_finite_ends_training_and_writes_nothing(
    tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, steep = tmp_path / "run", "training.optimizer={target: torch.optim.SGD, lr: 1.0e+30}"
    lengths = [*LENGTHS, "training.checkpoint_every=1", "training.warmup=0", "training.clip=null", steep]
    assert start("zoomldm", run, [*overrides, *lengths]) == DIVERGED
    told = re.search(
        r"error: training: loss is \S+ at step (\d+); no weights were written, .*--resume", capsys.readouterr().err
    )
    assert told
    assert 0 < int(told[1]) <= STEPS
    assert not (run / "weights.safetensors").exists()
    assert all(found.isfinite().all() for found in saved_weights(run))


def saved_weights(run: Path) -> Iterator[torch.Tensor]:
    for path in (run / "checkpoints").glob("*.ckpt"):
        yield from torch.load(path, weights_only=True)["current_model_state"].values()


def test_the_autoencoder_s_loss_is_watched_too(
    tmp_path: Path, overrides: list[str], steered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, small = arguments_of("vq", overrides, steered)
    steep = ["training.optimizer={target: torch.optim.SGD, lr: 1.0e+30}", "training.warmup=0", "training.clip=null"]
    assert start(config, tmp_path / "run", [*small, *LENGTHS, *steep]) == DIVERGED
    assert "no weights were written, nothing had been saved before" in capsys.readouterr().err


def test_a_slide_with_nan_is_named_when_it_is_trained_on(tmp_path: Path) -> None:
    overrides = training_cohort.make(tmp_path)
    with h5py.File(tmp_path / "cohort" / "s1.h5", "r+") as file:
        for scale in toy.SCALES:
            file[f"scales/{scale}/latents"][:, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=r"s1.h5: scales/.*/latents has values that are not finite"):
        start("zoomldm", tmp_path / "run", [*overrides, *LENGTHS])
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_a_checkpoint_with_nan_is_not_gone_on_from(tmp_path: Path, overrides: list[str]) -> None:
    run = tmp_path / "run"
    assert start("zoomldm", run, [*overrides, *LENGTHS]) == 0
    path = newest(run)
    content = torch.load(path, weights_only=True)
    next(iter(content["current_model_state"].values())).fill_(torch.nan)
    torch.save(content, path)
    write_sidecar(path)
    with pytest.raises(UserError, match=r"step=00000006.ckpt holds values that are not finite; delete it"):
        main.main(["--resume", str(run), "training.max_steps=8"])


HOLD = """
import sys, time
from pathlib import Path
from ldm.support.lock import owned
with owned(Path(sys.argv[1]), "-"):
    print("owned", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_before_it_changes_anything(tmp_path: Path, overrides: list[str]) -> None:
    run = tmp_path / "run"
    assert start("zoomldm", run, [*overrides, *LENGTHS]) == 0
    (run / ".config.yaml.partial").write_text("of the first process")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(UserError, match=rf"run: process {holder.pid} of .* works in it; wait for it, end it"):
            main.main(["--resume", str(run)])
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    finally:
        holder.kill()
        holder.wait()
    assert main.main(["--resume", str(run)]) == 0  # no lock outlives its process
    assert not (run / "lock").exists()


def test_a_folder_of_foreign_checkpoints_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step=00000008.ckpt").touch()
    with pytest.raises(UserError, match=r"holds checkpoints but no config\.yaml"):
        run_folder(OmegaConf.create({"run": str(tmp_path / "run")}), "x.yaml")
