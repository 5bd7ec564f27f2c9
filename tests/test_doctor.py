"""The doctor: no failure on a correct installation, each fault by name, never a traceback."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import main
from benchmarks.fixtures import toy, training_cohort
from ldm.checkpoint import load_weights
from ldm.cli import doctor
from ldm.data.split_file import NAME, Line, Shares, Split, write_split
from ldm.doctor import environment, published
from ldm.doctor.finding import Finding, checked
from ldm.support import hub_files
from ldm.support.files import sidecar
from ldm.support.package import Project
from tests import local_hub
from tests.local_hub import Repo

ROOT = Path(__file__).parents[1]
DEMO = str(ROOT / "configs/demo/zoomldm.yaml")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy.run_folder(tmp_path / "run", "zoomldm")


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "cohort"
    for number in range(2):
        toy.slide(folder / f"s{number}.h5")
    write_split(folder / NAME, Split({f"s{number}": Line(f"s{number}", "train") for number in range(2)}, Shares()))
    regions = {"20x": 64, "10x": 16, "5x": 4}
    write_report(folder, [{"slide_id": f"s{number}", "status": "prepared", "regions": regions} for number in range(2)])
    return folder


def write_report(folder: Path, reports: list[dict[str, Any]]) -> None:
    (folder / "report.json").write_text(json.dumps(reports))


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and output, of which every line but the last is a finding."""
    status = doctor.main(list(arguments))
    printed = capsys.readouterr().out
    assert all(line[:6] in ("ok    ", "warn  ", "FAIL  ") for line in printed.splitlines()[:-1])
    return status, printed


def test_a_whole_installation_has_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(published, "refusals", lambda wanted: {})
    monkeypatch.setattr(environment, "_driver", lambda: "")
    status, printed = found(capsys)
    assert status == 0
    assert "FAIL" not in printed
    networks = ("denoiser", "cdm", "control of", "encoder.safetensors")
    for part in ("OpenSlide", "torch", "uni:", "Inception", *networks, "slide.h5"):
        assert part in printed


def test_packages_that_are_old_or_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Project("1", ">=9", ["torch>=99", "no-such-package>=1", "numpy>=2"])
    monkeypatch.setattr(environment, "project", lambda: asked)
    told = [str(finding) for finding in environment.packages()]
    assert len(told) == 2
    assert told[0].startswith("FAIL  torch 2.")
    assert told[1] == "FAIL  no-such-package missing, expected >=1; pip install 'no-such-package>=1'"
    assert next(environment.python()).status == "FAIL"


@pytest.mark.parametrize(
    ("driver", "build", "status", "told"),
    [
        ("", "CUDA 13.0", "warn", "none"),
        ("H100, driver 470.1", "the CPU", "FAIL", "torch is built for the CPU; install"),
        ("H100, driver 470.1", "CUDA 13.0", "FAIL", "H100, driver 470.1 cannot be used by torch built for CUDA 13.0"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_told(
    driver: str, build: str, status: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_driver", lambda: driver)
    finding = environment._no_gpu(build, "the driver is too old")
    assert finding.status == status
    assert told in finding.told


def test_without_the_package_one_line_says_so(tmp_path: Path) -> None:
    bare = [sys.executable, "-I", "-S", str(ROOT / "scripts/doctor.py")]
    done = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("FAIL  ")
    assert done.stderr.count("\n") == 1


def test_published_weights_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [published.HubWeights(name, f"lab/{name}", ("weights.bin",), "put it here") for name in ("a", "b", "c")]
    with local_hub.running() as hub:
        local_hub.use(monkeypatch, hub.url, tmp_path)
        hub.repos["lab/a"] = Repo({"weights.bin": b"x"})
        hub.repos["lab/b"] = Repo({"weights.bin": b"x"}, gated=True)
        given, gated, missing = published.published(wanted)
        assert (given.status, given.told) == ("ok", f"a: not on this disk; {hub.url}/lab/a gives it")
        assert gated.status == missing.status == "warn"
        assert "is gated; accept its licence there and run `hf auth login`, or put it here" in gated.told
        assert "does not exist or is private" in missing.told
        hub_files.fetch(hub_files.Repository("lab/a"), "weights.bin", "a")
        assert next(published.published(wanted)).told.startswith(f"a: {tmp_path}")


def test_a_network_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "check_access", lambda *_: threading.Event().wait())
    monkeypatch.setattr(published, "SECONDS", 0.2)
    finding = next(published.published([published.HubWeights("uni", "lab/never", ("x.bin",), "put it somewhere")]))
    assert finding.status == "warn"
    assert "no answer" in finding.told


def test_a_hub_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_hub.use(monkeypatch, "http://127.0.0.1:1", tmp_path)
    names = [f"encoder{number}" for number in range(9)]
    wanted = [published.HubWeights(name, f"lab/{name}", ("w.bin",), "set encoder.weights to a file") for name in names]
    (finding,) = published.published(wanted)
    assert finding.status == "warn"
    assert finding.told.startswith("hub: http://127.0.0.1:1 cannot be asked for what is not on this disk: encoder0, ")
    assert finding.told.count("set encoder.weights to a file") == 1
    (finding,) = published.published(wanted[:1])
    assert finding.told.startswith("encoder0: http://127.0.0.1:1 gives no whole answer")


def test_weights_on_no_hub_are_told_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    assert published.elsewhere("VQ-f4", None, "https://example.org", "set autoencoder").status == "warn"
    assert published.elsewhere("VQ-f4", tmp_path / "w.pth", "https://example.org", "x").status == "ok"


def test_a_whole_cohort_is_read_to_the_end(slides: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, printed = found(capsys, "--cohort", str(slides), "--model", str(run))
    assert status == 0
    assert "2 of 2 slides complete, 168 regions" in printed
    assert "warn" not in printed.replace("warnings", "")


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_names_the_slide(slides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(slides / "s1.h5", 0.5)
    status, printed = found(capsys, "--cohort", str(slides))
    assert status == 1
    assert f"FAIL  {slides / 's1.h5'}: scales/" in printed
    assert "1 of 2 slides complete" in printed
    assert "lists s1, but no whole file is there" in printed


def test_what_slides_report_and_model_disagree_on_is_named(
    slides: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.slide(slides / "s1.h5", encoder="other-0")
    assert "s1.h5: encoder is other-0" in found(capsys, "--cohort", str(slides))[1]
    toy.slide(slides / "s0.h5", encoder="other-0")
    assert "slides have other-0, the model toy" in found(capsys, "--cohort", str(slides), "--model", str(run))[1]
    write_report(slides, [{"slide_id": "s0", "status": "prepared", "regions": {"20x": 1}}])
    printed = found(capsys, "--cohort", str(slides))[1]
    assert "s0 has other regions than its file" in printed
    assert "does not list s1" in printed
    write_report(slides, [{"slide_id": "bad", "status": "failed", "message": "bad.svs: no um/px"}])
    (slides / ".s3.h5.1.partial").touch()
    printed = found(capsys, "--cohort", str(slides))[1]
    assert "bad failed: bad.svs: no um/px" in printed
    assert "1 temporary files, such as" in printed
    write_split(slides / NAME, Split({"s0": Line("s0", "train")}, Shares()))
    assert f"FAIL  {slides / NAME}: lacks 1 of 2 slides, s1 first" in found(capsys, "--cohort", str(slides))[1]
    (slides / NAME).unlink()
    assert "missing; training will write one, or use" in found(capsys, "--cohort", str(slides))[1]


def test_latents_that_the_model_cannot_read_are_named(
    slides: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("s0", "s1"):
        toy.slide(slides / f"{name}.h5", autoencoder="older-1", latents_id="0123456789ab")
    status, printed = found(capsys, "--cohort", str(slides), "--model", str(run))
    assert status == 1
    assert "FAIL  autoencoder: latents are of older-1" in printed
    assert found(capsys, "--cohort", str(slides))[0] == 0


def test_weights_that_the_config_does_not_build_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("mlp: 32", "mlp: 64"))
    sidecar(config).unlink()
    status, printed = found(capsys, "--model", str(run))
    assert status == 1
    assert "weights and config differ: wrong shape: encoder.layers" in printed


def test_weights_that_are_not_finite_or_not_described(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "weights.safetensors"
    tensors = load_weights(weights)
    weights.with_name("weights.safetensors.sha256").unlink()
    assert "no weights.safetensors.sha256 beside it" in found(capsys, "--model", str(run))[1]
    first = next(iter(tensors))
    tensors[first][..., 0] = torch.nan
    save_file(tensors, weights)
    status, printed = found(capsys, "--model", str(run))
    assert status == 1
    assert f"{first} not finite" in printed


def test_the_checkpoints_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    main.main(["--base", DEMO, f"run={run}", "training.max_steps=8", *training_cohort.make(tmp_path)])
    monkeypatch.delenv("ZOOMLDM_RUN")
    capsys.readouterr()
    newest, before = (run / f"checkpoints/step={step:08d}.ckpt" for step in (8, 4))
    assert f"{newest}: step 8, whole" in found(capsys, "--model", str(run))[1]
    (run / "weights.safetensors").unlink()
    flip(newest, 0.5)
    status, printed = found(capsys, "--model", str(run))
    assert status == 0
    assert f"warn  {newest}: damaged" in printed
    assert f"{before}: step 4, whole" in printed
    assert f"--resume {run}" in printed
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("mlp: 32", "mlp: 64"))
    sidecar(config).unlink()
    assert f"FAIL  summarizer of {before}: weights and config differ" in found(capsys, "--model", str(run))[1]
    flip(before, 0.5)
    assert "none is whole" in found(capsys, "--model", str(run))[1]


def test_what_a_run_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = training_cohort.make(tmp_path)
    status, printed = found(capsys, "--config", DEMO, *overrides)
    assert status == 0
    assert "cohort fits; 168 regions" in printed
    status, printed = found(capsys, "--config", DEMO, *overrides, "data.batch_size=100000000")
    assert status == 1
    assert "FAIL  memory: about" in printed
    status, printed = found(capsys, "--config", DEMO, *overrides, "tile_px=64")
    assert "tile_px: the config has 64, but the cohort" in printed


def test_a_check_that_fails_itself_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("ok", "first")
        raise AttributeError("two\nlines")

    first, last = checked("thing", broken)
    assert first.told == "first"
    assert str(last).startswith("FAIL  thing: the check itself failed at test_doctor.py:")
    assert "\n" not in str(last)


def test_wrong_arguments_end_in_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/doctor.py"), "--cohort", "nowhere"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --cohort: nowhere is no folder")
