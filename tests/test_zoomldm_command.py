"""The command `zoomldm`: from any folder, in a checkout and from a wheel."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ldm
from ldm.cli import demo
from ldm.cli.zoomldm import COMMANDS, help_text, main
from ldm.config.objects import load_config
from ldm.errors import UserError
from ldm.multiscale.presets import PRESETS
from ldm.support import bundled_configs
from ldm.support.arguments import RENAMED
from ldm.support.bundled_configs import bundled_file, config_file, config_names
from ldm.support.bundled_models import BUNDLED
from ldm.support.package import project
from ldm.support.typed import SCRIPTS, typed

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


def test_help_has_one_line_per_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert main([]) == 0
    assert capsys.readouterr().out == printed
    assert all(len(re.findall(rf"^  {name} +\S", printed, re.M)) == 1 for name in COMMANDS)
    assert max(map(len, help_text().splitlines())) <= 100


def test_the_version_is_that_of_pyproject(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert stated is not None
    assert capsys.readouterr().out == f"zoomldm {stated[1]}\n"
    assert ldm.__version__ == project().version == stated[1]


def test_an_unknown_command_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="'sampel' is no command; did you mean sample"):
        main(["sampel"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_usage_and_errors_name_what_was_typed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (ROOT / SCRIPTS[name]).is_file()
    for begun, expected in (("/bin/zoomldm", f"zoomldm {name}"), (f"/x/{SCRIPTS[name]}", f"python {SCRIPTS[name]}")):
        monkeypatch.setattr(sys, "argv", [begun])
        assert typed(name) == expected
        with pytest.raises(SystemExit):
            main([name, "--help"])
        told = capsys.readouterr().out
        assert told.startswith(f"usage: {expected} ")
        assert ("python " in told) == expected.startswith("python ")
        with pytest.raises(SystemExit):
            main([name, "--no-such-option"])
        assert f"; {expected} --help lists what it takes" in capsys.readouterr().err


def test_the_demo_says_what_it_will_do_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--dry-run"]) == 0
    assert re.findall(r"^     zoomldm (\w+)", capsys.readouterr().out, re.M) == ["sample", "prepare", "train", "sample"]
    assert list(tmp_path.iterdir()) == []


def test_the_demo_ends_with_the_first_stage_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name, status in (("sample", 0), ("prepare", 0), ("train", 3)):
        monkeypatch.setattr(demo, name, lambda _, name=name, status=status: called.append(name) or status)
    assert demo.main([]) == 3
    assert called == ["sample", "prepare", "train"]


@pytest.mark.parametrize(
    ("name", "kind", "file"),
    [
        ("brca", "zoomldm", "zoomldm_brca.yaml"),
        ("demo", "zoomldm", "demo/zoomldm.yaml"),
        ("cdm_brca", "zoomldm", "cdm_brca.yaml"),
        ("demo/cdm", "zoomldm", "demo/cdm.yaml"),
        ("demo", "data", "demo/data.yaml"),
        ("demo/satellite", "zoomldm", "demo/satellite/zoomldm.yaml"),
        ("demo/satellite", "data", "demo/satellite/data.yaml"),
        ("demo/satellite/vq", "zoomldm", "demo/satellite/vq.yaml"),
        ("histology", "data", "data_histology.yaml"),
        ("configs/demo/vq.yaml", "zoomldm", "demo/vq.yaml"),
    ],
)
def test_a_bundled_config_is_found_from_any_folder(
    name: str, kind: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_file(name, kind).read_bytes() == (CONFIGS / file).read_bytes()


def test_every_config_has_a_name_that_finds_it() -> None:
    found = {config_file(name, kind) for kind in ("zoomldm", "data") for name in config_names(kind)}
    assert found == set(CONFIGS.rglob("*.yaml"))


def test_a_file_of_the_users_own_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/demo").mkdir(parents=True)
    (tmp_path / "configs/demo/zoomldm.yaml").write_text("a: 1\n")
    assert load_config(["configs/demo/zoomldm.yaml"]) == {"a": 1}
    assert bundled_file("configs/demo/splits.csv") == CONFIGS / "demo/splits.csv"


@pytest.mark.parametrize("name", ["bcra", "../pyproject", "configs", "", "zoomldm"])
def test_a_name_that_is_no_config_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UserError, match=r"is neither a file nor a bundled config; expected (did you mean|a path)"):
        config_file(name, "zoomldm")


def test_configs_of_a_wheel_are_those_beside_the_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled_configs, "PACKAGE", tmp_path)
    shutil.copytree(CONFIGS, tmp_path / "configs")
    assert config_file("brca", "zoomldm") == tmp_path / "configs/zoomldm_brca.yaml"


OLD = [
    ("sample", "--scale", "--scales"),
    ("joint", "--tile-batch", "--batch-size"),
    ("superres", "--tile-batch=4", "--batch-size"),
    ("evaluate patches", "--batch", "--batch-size"),
    ("evaluate memorization", "--scale=5x", "--scales"),
    ("doctor", "--base", "--config"),
    ("prepare", "--base", "--config"),
]


@pytest.mark.parametrize(("command", "old", "new"), OLD)
def test_an_old_spelling_is_refused_with_the_new_one(
    command: str, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), old, "4"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"{old.partition('=')[0]}: is called {new} now" in told
    assert told.count("\n") == 1


def test_an_option_has_one_name_in_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    found: set[str] = set()
    for command in (
        *COMMANDS,
        *(f"evaluate {name}" for name in ("patches", "large", "superres", "memorization", "passport")),
    ):
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        told = capsys.readouterr().out
        assert not re.search(r"\['|\bNone\b|\.{4}", told)  # written for people, not as Python prints it
        found |= set(re.findall(r"--[a-z][\w-]*", told))
    assert {"--scales", "--batch-size", "--device", "--devices", "--seed", "--out", "--model", "--config"} <= found
    assert found & set(RENAMED) == {"--base"}  # of training, beside --config


def test_joint_says_its_defaults_that_a_preset_decides(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["joint", "--help"])
    told, usual = " ".join(capsys.readouterr().out.split()), PRESETS["default"]
    assert f"default: {usual.steps}, or the preset's" in told
    assert f"default: {usual.guidance:g}, the finest canvas {usual.fine_guidance:g}, or the preset's" in told


@pytest.mark.parametrize("scales", ["", "20x,,5x", "20x, 5x", ","])
def test_scales_are_names_between_commas(scales: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("sample", "joint", "superres", "evaluate patches"):
        with pytest.raises(SystemExit):
            main([*command.split(), "--scales", scales])
        assert "expected names separated by commas, as 20x,5x" in capsys.readouterr().err


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel of this checkout was installed into."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("ldm", "data_prep", "configs"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    local = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *local, "-w", str(folder / "wheels"), str(folder / "source")], check=True)
    wheel = next((folder / "wheels").glob("*.whl"))
    subprocess.run([*pip, "install", *local, "--target", str(folder / "target"), str(wheel)], check=True)
    return folder / "target"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "printed"),
    [
        (["--version"], 0, "zoomldm "),
        (["demo", "--dry-run"], 0, "4/4"),
        (["sample", "--scales", "5x", "--count", "1", "--steps", "1", "--device", "cpu"], 0, "contact_sheet.png"),
        (["train", "--config", "brca", "--dry-run"], 0, "steps per epoch|is not there yet"),
        (["doctor", "--config", "demo"], 0, "0 failures"),
        (["train", "--config", "demo/satellite", "--dry-run"], 0, "this training makes it first, with"),
        *[(["doctor", "--model", name], 0, "0 failures") for name in BUNDLED],
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_installed_wheel_works_from_an_unrelated_folder(
    arguments: list[str], status: int, printed: str, installed: Path, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(installed / "bin" / "zoomldm"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert re.search(printed, done.stdout)
    assert f"{ROOT}{os.sep}" not in done.stdout + done.stderr
    where = [sys.executable, "-c", "import ldm; print(ldm.__file__)"]
    assert subprocess.check_output(where, cwd=tmp_path, env=environment, text=True).startswith(str(installed))
