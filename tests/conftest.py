"""Fixtures that many tests share and none changes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fixtures import toy, training_cohort
from benchmarks.robustness.forking import start_server
from ldm.data.h5 import SlideFile
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED


@pytest.fixture(scope="session", autouse=True)
def server_of_forks() -> None:
    """Start the fork server with all modules that any test needs."""
    start_server()


@pytest.fixture(scope="session", autouse=True)
def full_precision() -> Iterator[None]:
    """Tests compare values, so "auto" means fp32 on every processor, except in tests/support/test_precision.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldm.support.precision.native", lambda precision, device: precision == "fp32")
        yield


@pytest.fixture(autouse=True)
def fresh_run_name() -> Iterator[None]:
    """A run names its folder in the environment, for the processes that it starts; no test inherits that name."""
    os.environ.pop("ZOOMLDM_RUN", None)
    yield
    os.environ.pop("ZOOMLDM_RUN", None)


@pytest.fixture(scope="session")
def demo() -> ZoomLDM:
    """The bundled model."""
    return ZoomLDM.load("demo")


@pytest.fixture(scope="session")
def demo_slide() -> SlideFile:
    """The bundled slide."""
    return SlideFile(BUNDLED["demo"].slide)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy model's run, its preview head's in it, its CDM's, an autoencoder's, and a slide."""
    folder = tmp_path_factory.mktemp("world")
    for system in ("zoomldm", "cdm", "vq"):
        toy.run_folder(folder / system, system)
    toy.run_folder(folder / "zoomldm" / "preview", "preview")
    toy.slide(folder / "slide.h5")
    return folder


@pytest.fixture(scope="session")
def model(world: Path) -> ZoomLDM:
    """The toy model, with its CDM."""
    return ZoomLDM.load(world / "zoomldm", cdm=world / "cdm", precision="fp32")


@pytest.fixture(scope="session")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What makes a demo config train on a cohort of toy slides, in seconds."""
    return training_cohort.make(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def python_sigint() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt here and in children, also where a shell runs the tests in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
