"""What many tests read and none changes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fixtures import toy
from benchmarks.robustness.forking import start_server
from ldm.data.h5 import SlideFile
from ldm.hub import BUNDLED
from ldm.pipeline import ZoomLDM


@pytest.fixture(scope="session", autouse=True)
def server_of_forks() -> None:
    """Whichever test forks first, the others find what they need imported."""
    start_server()


@pytest.fixture(scope="session", autouse=True)
def full_precision() -> Iterator[None]:
    """Tests compare figures, so "auto" means fp32 on every processor, but in tests/support/test_precision.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldm.support.precision.native", lambda precision, device: precision == "fp32")
        yield


@pytest.fixture(scope="session")
def demo() -> ZoomLDM:
    """The bundled model."""
    return ZoomLDM.load("demo")


@pytest.fixture(scope="session")
def demo_slide() -> SlideFile:
    """The bundled slide."""
    return SlideFile(BUNDLED / "slide.h5")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy model's run, its CDM's, and a slide."""
    folder = tmp_path_factory.mktemp("world")
    toy.run_folder(folder / "zoomldm", "zoomldm")
    toy.run_folder(folder / "cdm", "cdm")
    toy.slide(folder / "slide.h5")
    return folder
