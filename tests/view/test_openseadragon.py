"""OpenSeadragon comes from the wheel, the cache or npm, and is the pinned one."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ldm.errors import UserError
from ldm.view import openseadragon
from ldm.view.openseadragon import ARCHIVE, LICENCE, SCRIPT, library


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(openseadragon, "PACKAGED", tmp_path / "nothing")
    return tmp_path / "zoomldm" / ARCHIVE


def npm_that_writes(monkeypatch: pytest.MonkeyPatch, content: bytes | None, error: str = "") -> list[list[str]]:
    """Stands for npm; returns the list of its calls."""
    calls: list[list[str]] = []

    def run(command: list[str], cwd: str, **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if content is not None:
            (Path(cwd) / ARCHIVE).write_bytes(content)
        return subprocess.CompletedProcess(command, 0 if content else 1, "", error)

    monkeypatch.setattr(openseadragon.shutil, "which", lambda _: "/usr/bin/npm")
    monkeypatch.setattr(openseadragon.subprocess, "run", run)
    return calls


def test_a_wheel_needs_neither_cache_nor_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openseadragon, "PACKAGED", tmp_path)
    (tmp_path / SCRIPT).write_bytes(b"script")
    (tmp_path / LICENCE).write_bytes(b"licence")
    assert library() == {SCRIPT: b"script", LICENCE: b"licence"}


def test_without_npm_the_remedy_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openseadragon.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=f"there is no npm; install Node.js, or put {ARCHIVE} .* into {cache.parent}"):
        library()


def test_without_a_network_it_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_that_writes(monkeypatch, None, "npm error\nnetwork down\n")
    with pytest.raises(UserError, match=r"could not be fetched with npm \(npm error network down\); check the network"):
        library()


@pytest.mark.parametrize("cached", [True, False])
def test_another_content_is_never_used(cached: bool, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = npm_that_writes(monkeypatch, b"something else")
    if cached:
        cache.parent.mkdir(parents=True)
        cache.write_bytes(b"damaged")
    with pytest.raises(UserError, match="is not the pinned one"):
        library()
    assert len(calls) == 1
    assert not cache.exists() or cache.read_bytes() == b"damaged"
