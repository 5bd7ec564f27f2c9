"""A user's mistake is one line and status 2, before any work; a bug keeps its traceback."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import main
from data_prep import crops, prepare, splits
from ldm.cli import evaluate, explore, superres, view
from ldm.cli import features as extract_features
from ldm.cli import joint as sample_joint
from ldm.cli import mil as train_mil
from ldm.cli import sample as sample_patches
from ldm.errors import CLOSED, INTERRUPTED, TERMINATED, UserError, cli, when_stopped
from ldm.support.arguments import whole_numbers
from ldm.support.files import check_destination
from ldm.support.machines import check_machines

ROOT = Path(__file__).parents[1]
DEMO, DATA = str(ROOT / "configs/demo/zoomldm.yaml"), str(ROOT / "configs/demo/data.yaml")
COMMANDS: dict[str, tuple[Callable[[list[str]], object], list[str], str]] = {
    "main": (main.main, ["--base", DEMO], "run="),
    "prepare": (prepare.main, ["--config", DATA], "out="),
    "slides": (prepare.main, ["--config", DATA], "slides="),
    "splits": (splits.main, ["--cohort", "."], "--out="),
    "sample_patches": (sample_patches.main, [], "--out="),
    "sample_joint": (sample_joint.main, [], "--out="),
    "superres": (superres.main, [], "--out="),
    "extract_features": (extract_features.main, ["cohort"], "--out="),
    "evaluate": (evaluate.main, ["patches"], "--out="),
    "statistics": (evaluate.main, ["patches"], "--statistics="),
    "train_mil": (train_mil.main, [], "--out="),
    "explore": (explore.main, ["--region=0,0,8x8"], "--export="),
    "view": (view.main, ["."], "--export="),
}


def ended(command: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as end:
        cli(command)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("place", ["below/x", "n" * 250, "a" * 4000, "/proc/nothing", "\udcff" * 250])
def test_where_nothing_can_be_written_is_told_before_any_work(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").write_text("a file")
    command, arguments, option = COMMANDS[name]
    status, told = ended(lambda: command([*arguments, option + place]), capsys)
    assert status == 2
    assert told.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below"]


def test_a_destination_is_of_its_kind_and_nothing_is_left_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    check_destination(file, folder=False)
    check_destination(tmp_path / "new/deeper", folder=True)
    for path, folder, expected in ((file, True, "is a file"), (tmp_path, False, "is a folder")):
        with pytest.raises(UserError, match=expected):
            check_destination(path, folder)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError):
        check_destination(tmp_path / "loop" / "x", folder=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EROFS])
def test_what_the_system_refuses_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise OSError(number, os.strerror(number), "some/file")

    status, told = ended(fails, capsys)
    assert status == 2
    assert told.startswith("error: some/file: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "error", [OSError("ours"), OSError(errno.EACCES, "of no file"), ValueError("x"), KeyError("y")]
)
def test_a_fault_of_ours_keeps_its_traceback(error: Exception) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error)):
        cli(fails)


def test_pictures_of_no_slide_are_no_success(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no slide found"):
            crops.main([str(place), "--out", str(tmp_path / "out")])


def test_argparse_tells_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--count", "²"], ["--foo"], ["--sampler", "x"], ["--count"], ["a\nb"], ["--device", "meta"]):
        status, told = ended(lambda arguments=arguments: sample_patches.main(arguments), capsys)  # type: ignore[misc]
        assert (status, told.count("\n")) == (2, 1), told
        assert told.startswith("error: ")


def test_only_plain_digits_are_numbers() -> None:
    assert whole_numbers("10,5", ",") == [10, 5]
    for text in ("²,1", "1,", "", "-1", "1.5", "٣", "1" * 5000):
        assert whole_numbers(text, ",") is None
    for command, text in ((sample_joint.size_of, "²"), (train_mil.splits_of, "³"), (sample_joint.size_of, "0")):
        with pytest.raises(UserError, match="expected"):
            command(text)


@pytest.mark.parametrize(
    ("machines", "expected"),
    [
        (("cuda", 1, 1), "sees no GPU"),
        (("cpu", 10_000, 1), "at most"),
        (("cpu", 1, 2), "no scheduler"),
        (("mps", 1, 1), "mps"),
    ],
)
def test_machines_that_are_not_there_are_refused(
    machines: tuple[str, int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for name in ("MASTER_ADDR", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=expected):
        check_machines(*machines)
    monkeypatch.setenv("MASTER_ADDR", "first")
    check_machines("cpu", 1, 2)


def test_lightning_s_own_refusals_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm.support.processes import launch

    with pytest.raises(UserError, match="Lightning refuses them here"):
        launch(1, 1, "foo")


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)])
def test_a_scheduler_s_signal_stops_a_command_as_ctrl_c_does(
    number: int, expected: int, capsys: pytest.CaptureFixture[str], python_sigint: None
) -> None:
    saved = []

    @when_stopped("the same command continues")
    def command() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)  # a second one does not end the save
            saved.append(True)
            raise

    before = signal.getsignal(signal.SIGTERM)
    if number == signal.SIGINT:
        assert ended(lambda: signal.raise_signal(number), capsys) == (expected, "interrupted\n")
    else:
        assert ended(command, capsys) == (expected, "interrupted; the same command continues\n")
        assert saved == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_processes_of_a_command_are_ended_by_sigterm_as_ever() -> None:
    waits = "import time; print(flush=True); time.sleep(60)"
    forks = """
begun, ready = os.pipe()
pid = os.fork()
if not pid:
    os.write(ready, b"x")
    while True:
        time.sleep(0.01)
os.read(begun, 1)
os.kill(pid, 15)
print(os.waitpid(pid, 0)[1])
"""
    code = f"import os, time; from ldm.errors import cli; cli(lambda: exec({forks!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{int(signal.SIGTERM)}\n", "")
    code = f"from ldm.errors import cli; cli(lambda: exec({waits!r}))"
    second = {**os.environ, "LOCAL_RANK": "1"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, env=second)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        child.terminate()
        assert child.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("command", "stream", "unbuffered"),
    [
        ("from ldm.cli.zoomldm import main; cli(lambda: main(['--help']))", "stdout", ""),
        ("from ldm.cli.sample import main; cli(lambda: main(['--help']))", "stdout", ""),
        ("cli(lambda: [print('x' * 1000) for _ in range(1000)])", "stdout", ""),
        ("cli(lambda: [print('x' * 1000) for _ in range(1000)])", "stdout", "1"),
        ("cli(lambda: [print('x' * 1000, file=sys.stderr) for _ in range(1000)])", "stderr", ""),
    ],
)
def test_a_reader_that_has_enough_is_no_fault(command: str, stream: str, unbuffered: str) -> None:
    """As `zoomldm --help | head -1`."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    code = f"import sys; from ldm.errors import cli; sys.stdin.readline(); {command}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        getattr(process, stream).close()
        setattr(process, stream, None)
        out, err = process.communicate("go\n", timeout=60)
    assert process.returncode == CLOSED
    assert (out or "") + (err or "") == ""


def test_a_pipe_of_ours_that_breaks_keeps_its_traceback() -> None:
    def fails() -> None:
        raise BrokenPipeError(errno.EPIPE, "of a worker")

    with pytest.raises(BrokenPipeError):
        cli(fails)
