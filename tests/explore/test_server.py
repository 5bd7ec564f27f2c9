"""The page of an endless slide over HTTP: tiles are the world's, and those that nobody waits for are dropped."""

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image

from benchmarks.fixtures.plain_model import PlainModel
from ldm.cli import explore as command
from ldm.cli.explore import region_of
from ldm.commands import explore
from ldm.endless.endless_world import World
from ldm.errors import UserError
from ldm.explore.tile_server import FILES, app_of
from ldm.view.local_server import listen, server_of
from tests.endless.test_world import quick, worlds
from tests.http_status import WRITING, status

__all__ = ["quick"]


class Served(NamedTuple):
    world: World
    port: int

    def get(self, address: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", f"/{address}")
        answer = connection.getresponse()
        return answer.status, answer.read()

    def pixels(self, address: str) -> np.ndarray:
        status, body = self.get(address)
        assert status == 200
        return np.asarray(Image.open(io.BytesIO(body)))


@pytest.fixture
def served() -> Iterator[Served]:
    world, listening = worlds(threads=1), listen(None, 0)
    server = server_of(app_of(world, "plain <model>"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield Served(world, listening.getsockname()[1])
    server.should_exit = True
    thread.join()
    world.close()


def test_tiles_are_chunks_of_the_world(served: Served) -> None:
    tile = served.pixels("tiles/20x/-2_-3.png")
    assert np.array_equal(tile, served.world["20x", -64:-32, -96:-64])
    assert np.array_equal(served.pixels("drafts/-1_0.png"), served.world.submit_draft(-1, 0).result())


def test_the_page_knows_the_layers(served: Served) -> None:
    status, body = served.get("world.json")
    told = json.loads(body)
    assert status == 200
    assert [(layer["name"], layer["px"], layer["downsample"]) for layer in told["layers"]] == [
        ("5x", 28, 4),
        ("5x", 16, 4),
        ("20x", 32, 1),
    ]
    assert told["title"] == "plain <model>"


@pytest.mark.parametrize("name", ["", *FILES])
def test_every_file_of_the_page_is_served(served: Served, name: str) -> None:
    assert served.get(name)[0] == 200


@pytest.mark.parametrize(
    "address",
    [
        *("tiles/3x/0_0.png", "tiles/20x/a_0.png", "tiles/20x/0_1.5.png", "tiles/20x/--1_0.png", "tiles/20x/0_0.tif"),
        *(f"tiles/20x/{'9' * 13}_0.png", f"tiles/20x/{'9' * 12}_0.png", "drafts/x_y.png", "tiles/20x/\u0663_0.png"),
        *("server.py", "..%2fserver.py", "../../etc/passwd", "page/index.html"),
    ],
)
def test_nothing_else_is_served(served: Served, address: str) -> None:
    from urllib.parse import quote

    assert served.get(quote(address, safe="/%."))[0] == 404


def test_tiles_that_nobody_waits_for_are_dropped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, begun, go_on = [], threading.Event(), threading.Event()

    def chunk(scale: str, row: int, col: int) -> np.ndarray:
        computed.append(col)
        begun.set()
        assert go_on.wait(30)
        return np.zeros((64, 64, 3), np.uint8)

    monkeypatch.setattr(served.world, "_chunk", chunk)
    asked = []
    for col in range(3):
        connection = socket.create_connection(("127.0.0.1", served.port))
        connection.sendall(f"GET /tiles/20x/0_{col}.png HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        asked.append(connection)
        assert begun.wait(30)
    while served.world._pool._work_queue.qsize() < 2:
        time.sleep(0.01)
    asked[1].close()
    time.sleep(0.6)
    go_on.set()
    for connection in (asked[0], asked[2]):
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        connection.close()
    assert computed == [0, 2]


def test_the_server_ends_without_a_traceback_while_tiles_are_computed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def chunk(*_: object) -> np.ndarray:
        begun.set()
        assert go_on.wait(30)
        return np.zeros((64, 64, 3), np.uint8)

    world, listening = worlds(threads=1), listen(None, 0)
    monkeypatch.setattr(world, "_chunk", chunk)
    server = server_of(app_of(world, "x"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    asked = [socket.create_connection(listening.getsockname()) for _ in range(3)]
    for col, connection in enumerate(asked):
        connection.sendall(f"GET /tiles/20x/0_{col}.png HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    assert begun.wait(30)
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
    go_on.set()
    world.close()
    assert capfd.readouterr().err == ""
    for connection in asked:
        connection.close()


@pytest.mark.parametrize("method", WRITING)
def test_only_reading_is_allowed(method: str, served: Served) -> None:
    assert status(served.port, method, "/tiles/20x/0_0.png") == 405


def test_another_host_is_refused(served: Served) -> None:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("GET", "/world.json", headers={"Host": "rebound.example"})
    assert connection.getresponse().status == 400


def test_a_port_in_use_is_told_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("loaded before the port was tried")

    monkeypatch.setattr(explore.ZoomLDM, "load", load)
    with listen(None, 0) as taken, pytest.raises(UserError, match=r"--port: \d+ cannot be used"):
        command.main(["--port", str(taken.getsockname()[1])])


def test_a_region_is_written_as_tiff(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "region.tiff"  # type: ignore[operator]
    from argparse import Namespace

    world = worlds(PlainModel())
    explore.write(world, Namespace(area=(-150, -160, 60, 70), export=path))
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert page.shape == (70, 60, 3)
        assert page.tags["XResolution"].value[0] / page.tags["XResolution"].value[1] == pytest.approx(1e4 / 0.5)
        written = page.asarray().astype(int)
    assert np.abs(written - world["20x", -160:-90, -150:-90]).mean() < 6  # JPEG


@pytest.mark.parametrize(
    "text", ["0,0", "0,0,8", "0,0,0x8", "0,0,8x-8", "1.5,0,8x8", "a,b,cxd", f"{10**12},0,8x8", "0,0,999999999x1", ""]
)
def test_what_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--region"):
        region_of(text)


def test_regions_may_lie_anywhere() -> None:
    assert region_of("-1024,7,4096X2048") == (-1024, 7, 4096, 2048)


def test_a_region_too_far_away_is_told_how_far_it_may_be() -> None:
    with pytest.raises(UserError, match="nearer than 1,000,000,000,000 px"):
        region_of(f"{-(10**12)},0,8x8")
