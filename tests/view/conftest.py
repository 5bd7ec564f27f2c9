"""A folder of small files of every kind, and a running server of it."""

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from benchmarks.fixtures import toy
from benchmarks.fixtures.slides import tissue_image, write_scene, write_slide
from ldm.images.pyramid_tiff import halve
from ldm.view.catalogue import catalogue
from ldm.view.local_server import listen, server_of
from ldm.view.server import app_of
from ldm.view.site import Site

HOSTILE = '"><img src=x onerror=alert(1)>.png'


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


class Served(NamedTuple):
    """A site at a port of 127.0.0.1."""

    site: Site
    port: int

    def get(self, address: str, **headers: str) -> Answer:
        """The answer to GET /address, sent as it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", f"/{address}", headers=sent)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()})

    def number(self, name: str) -> int:
        return next(number for number, entry in enumerate(self.site.entries) if entry.name == name)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for OpenSeadragon, so that nothing is fetched."""
    content = {"openseadragon.min.js": b"// library", "openseadragon.LICENSE.txt": b"BSD"}
    monkeypatch.setattr("ldm.view.site.library", lambda: content)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pyramid of 1300x900 px, a scene, a picture, a prepared slide, a damaged file, and a hostile name."""
    folder = tmp_path_factory.mktemp("pictures")
    slide = tissue_image(900, 1300)
    write_slide(folder / "slide.tiff", [slide, halve(slide), halve(halve(slide))], mpp=0.5)
    write_scene(folder / "scene.tif", tissue_image(600, 700, seed=1).transpose(2, 0, 1), metres=2.0)
    Image.fromarray(tissue_image(100, 50)).save(folder / "picture.jpg", quality=90)
    Image.fromarray(tissue_image(40, 60)).save(folder / HOSTILE)
    toy.slide(folder / "prepared.h5")
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return folder


@pytest.fixture
def served(pictures: Path, library: None) -> Iterator[Served]:
    entries, _ = catalogue([pictures])
    yield from serving(Site("pictures", entries))


def serving(site: Site) -> Iterator[Served]:
    """Serve `site` until the test ends."""
    listening = listen(None, 0)
    server = server_of(app_of(site))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield Served(site, listening.getsockname()[1])
    server.should_exit = True
    thread.join()


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))
