"""The page over HTTP: pixels are the file's, and nothing but what was given is served, to nobody else."""

import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.fixtures import toy
from benchmarks.fixtures.slides import tissue_image, write_leica
from ldm.cli import view
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.images.pyramid_tiff import halve
from ldm.view.catalogue import catalogue
from ldm.view.deep_zoom import Pyramid
from ldm.view.image_readers import open_shown
from ldm.view.local_server import listen
from ldm.view.site import Site
from tests.http_status import WRITING, status
from tests.view.conftest import HOSTILE, Served, pixels_of

TILE, OVERLAP = 510, 1


def described(served: Served, name: str) -> dict[str, object]:
    answer = served.get(f"entries/{served.number(name)}.js")
    assert answer.status == 200
    found = re.fullmatch(rb"ZoomLDM\.entry\(\d+,(.*)\);\n", answer.body)
    assert found
    return json.loads(found[1])


def assembled(served: Served, name: str, level: int) -> np.ndarray:
    """A level of an image, put together from its tiles."""
    width, height = described(served, name)["layers"][0]["levels"][level]
    canvas = np.zeros((height, width, 3), np.uint8)
    for row in range(-(-height // TILE)):
        for col in range(-(-width // TILE)):
            answer = served.get(f"tiles/{served.number(name)}/0/{level}/{col}_{row}.png")
            assert answer.status == 200
            tile = np.asarray(Image.open(io.BytesIO(answer.body)))
            y, x = (max(0, number * TILE - OVERLAP) for number in (row, col))
            own = (slice(number * TILE - start, None) for number, start in ((row, y), (col, x)))
            part = canvas[row * TILE : y + len(tile), col * TILE : x + tile.shape[1]]
            part[:] = tile[*own]
            assert tile.shape[1] == min(width, (col + 1) * TILE + OVERLAP) - x
            assert len(tile) == min(height, (row + 1) * TILE + OVERLAP) - y
    return canvas


def test_tiles_are_the_pixels_of_the_file(served: Served, pictures: Path) -> None:
    slide = tissue_image(900, 1300)
    assert np.array_equal(assembled(served, "slide.tiff", 2), slide)
    assert np.array_equal(assembled(served, "slide.tiff", 1), halve(slide))
    assert np.array_equal(assembled(served, "scene.tif", 1), tissue_image(600, 700, seed=1))
    assert np.array_equal(assembled(served, "picture.jpg", 0), pixels_of(pictures / "picture.jpg"))


def test_levels_that_the_file_lacks_are_means(served: Served) -> None:
    scene = tissue_image(600, 700, seed=1).astype(float)
    means = scene.reshape(300, 2, 350, 2, 3).mean((1, 3))
    assert np.abs(assembled(served, "scene.tif", 0) - means).max() <= 1  # Pillow rounds rows, then columns


def test_a_prepared_slide_shows_its_regions_where_they_are(served: Served, pictures: Path) -> None:
    slide = SlideFile(pictures / "prepared.h5")
    shown = assembled(served, "prepared.h5", 0)
    side = toy.TILE_PX
    for row, (i, j) in enumerate(slide.ij("20x").tolist()):
        region = shown[i * side : (i + 1) * side, j * side : (j + 1) * side]
        assert np.array_equal(region, slide.images("20x", [row])[0])
    outlines = described(served, "prepared.h5")["outlines"]
    assert outlines[0]["name"] == "at least half tissue"
    counts = {outline["name"]: outline["count"] for outline in outlines[1:]}
    assert counts == {f"regions at {scale}": slide.count(scale) for scale in toy.SCALES}
    paths = served.get(f"outlines/{served.number('prepared.h5')}.js").body.decode()
    classes = json.loads(re.fullmatch(r"ZoomLDM\.outlines\(\d+,(.*)\);\n", paths)[1])
    corners = {(path[0] / side, path[1] / side) for path in classes[1]}
    assert corners == {(j, i) for i, j in slide.ij("20x").tolist()}


def test_lengths_are_those_of_the_file(served: Served) -> None:
    told = {name: described(served, name) for name in ("slide.tiff", "scene.tif", "picture.jpg", "prepared.h5")}
    assert {name: (entry["per_pixel"], entry["unit"]) for name, entry in told.items()} == {
        "slide.tiff": (pytest.approx(0.5), "um"),
        "scene.tif": (pytest.approx(2.0), "m"),
        "picture.jpg": (1.0, "px"),
        "prepared.h5": (pytest.approx(0.5), "um"),
    }


def test_a_large_file_without_a_pyramid_is_shrunk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.view.deep_zoom.OVERVIEW_PX", 64)
    monkeypatch.setattr("ldm.view.deep_zoom.BLOCK_PX", 256)
    image = tissue_image(1100, 1500)
    Image.fromarray(image).save(tmp_path / "a.png")
    pyramid = Pyramid(tmp_path / "a.png", lambda: open_shown(tmp_path / "a.png"))
    shrunk = pyramid._slide.reader._shrunk()
    assert shrunk.shape == (35, 47, 3)
    assert np.abs(shrunk[:34, :46] - image[:1088, :1472].reshape(34, 32, 46, 32, 3).mean((1, 3))).max() <= 0.51
    assert np.array_equal(pyramid.tile(2, 2, 2), image[1019:, 1019:])


@pytest.mark.parametrize(
    "address",
    [
        *("../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd"),
        *("....//etc/passwd", "tiles/0/0/0/../../../../etc/passwd", "slide.tiff", "index.html%00", "..", "%"),
        *("tiles/99/0/0/0_0.png", "tiles/0/9/0/0_0.png", "tiles/0/0/99/0_0.png", "tiles/0/0/0/99_0.png"),
        *("tiles/-1/0/0/0_0.png", "tiles/0/0/0/-1_0.png", "entries/99.js", "entries/-1.js", "outlines/99.js"),
        *("thumbnails/99.png", f"tiles/{'9' * 30}/0/0/0_0.png", f"entries/{'9' * 5000}.js", "view.js/.."),
    ],
)
def test_what_was_not_given_is_not_there(served: Served, address: str) -> None:
    assert served.get(address).status == 404


def test_other_hosts_and_other_sites_are_refused(served: Served) -> None:
    own = f"127.0.0.1:{served.port}"
    assert served.get("", Host=own).status == 200
    assert served.get("", Host=f"localhost:{served.port}").status == 200
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1.evil.example", "192.168.0.1", ""):
        assert served.get("data.js", Host=host).status == 400, host
    assert served.get("data.js", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status == 403
    assert served.get("data.js", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="cors").status == 403
    assert served.get("", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
    assert served.get("data.js", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="no-cors").status == 200


@pytest.mark.parametrize("method", WRITING)
def test_only_reading_is_allowed(method: str, served: Served) -> None:
    assert status(served.port, method, "/tiles/0/0/0/0_0.png") == 405


def test_askers_that_go_away_and_lines_that_are_no_request_stop_nothing(served: Served) -> None:
    for number in range(40):
        connection = socket.create_connection(("127.0.0.1", served.port))
        lines = b"GET /tiles/0/0/0/0_0.png HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET / HT"
        connection.sendall(lines[number % 3])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
        connection.close()
    assert served.get("tiles/0/0/0/0_0.png").status == 200


def test_every_answer_forbids_other_sources(served: Served) -> None:
    for address in ("", "data.js", "thumbnails/0.png", "nothing"):
        headers = served.get(address).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_a_hostile_name_is_data_not_markup(pictures: Path, library: None) -> None:
    entries, _ = catalogue([pictures / HOSTILE])
    site = Site(HOSTILE, entries)
    page = site.files["index.html"].decode()
    assert "<img" not in page
    assert "&lt;img src=x" in page
    assert "<title>{scripts}</title>" in Site("{scripts}", entries).files["index.html"].decode()
    script = site.files["data.js"].decode()
    assert script.isascii()
    assert json.loads(script.removeprefix("ZoomLDM.start(").removesuffix(");\n"))["entries"][0]["name"] == HOSTILE


def test_names_of_any_bytes_are_shown(tmp_path: Path, library: None) -> None:
    for name in (b"\xff\xfe.png", b"a\nb.png", "\u2028</script>.png".encode()):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name.replace(b"/", b":"))))
        Image.fromarray(tissue_image(20, 20)).save(path, format="PNG")
    entries, _ = catalogue([tmp_path])
    script = Site("x", entries).files["data.js"].decode()
    assert len(entries) == 3
    assert script.isascii()
    assert script.count("\n") == 1


def test_the_server_listens_on_this_machine_alone() -> None:
    with listen(None, 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_told_and_the_usual_one_gives_way() -> None:
    with listen(None, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port: {port} cannot be used .*choose another"):
            listen(port, 8420)
        with listen(None, port) as free:
            assert free.getsockname()[1] != port


def test_ctrl_c_ends_the_command_with_status_0(pictures: Path, tmp_path: Path, python_sigint: None) -> None:
    (tmp_path / "zoomldm").mkdir()
    code = (
        "import sys, ldm.view.site as site; from ldm.errors import cli; from ldm.cli.zoomldm import main; "
        "site.library = lambda: {'openseadragon.min.js': b''}; cli(lambda: main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "view", str(pictures / "picture.jpg")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    line = running.stdout.readline()
    assert re.match(r"http://127\.0\.0\.1:\d+/ ", line)
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out.strip(), err) == (0, "", "")


def test_a_damaged_file_of_a_folder_is_told_in_the_page(served: Served) -> None:
    assert "cannot be read" in described(served, "damaged.png")["error"]
    assert served.get(f"tiles/{served.number('damaged.png')}/0/0/0_0.png").status == 500


def test_an_image_is_shown_beside_the_reason_why_its_outlines_are_not(tmp_path: Path) -> None:
    Image.fromarray(tissue_image(20, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.geojson").write_text("nothing")
    ((entry,), _) = catalogue([tmp_path])
    told = entry.described()
    assert told["layers"][0]["levels"] == [[20, 20]]
    assert "cannot be read as GeoJSON" in told["trouble"]
    with pytest.raises(UserError, match="cannot be read as GeoJSON"):
        catalogue([tmp_path / "a.png"])


def test_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds nothing that can be shown"):
        catalogue([tmp_path])
    with pytest.raises(UserError, match="is no regular file"):
        catalogue([tmp_path / "a.png"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("damaged.png", "cannot be read"),
        ("nothing.svs", "does not exist"),
        ("empty", "holds nothing that can be shown"),
    ],
)
def test_what_cannot_be_shown_is_refused(name: str, message: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    given = tmp_path / name if name == "empty" else pictures / name
    with pytest.raises(UserError, match=message):
        view.main([str(given)])


def test_links_out_of_a_folder_are_left_out_but_named_ones_are_shown(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    Image.fromarray(tissue_image(20, 20)).save(folder / "own.png")
    (folder / "within.png").symlink_to(folder / "own.png")
    (folder / "out.jpg").symlink_to(pictures / "picture.jpg")
    (folder / "deeper").symlink_to(pictures, target_is_directory=True)
    (folder / "own.geojson").symlink_to(pictures / "picture.jpg")
    entries, notes = catalogue([folder])
    assert [entry.name for entry in entries] == ["own.png", "within.png"]
    assert len(notes) == 1
    assert "2 links that lead out of it" in notes[0]
    assert entries[0].described()["outlines"] == []
    assert [entry.name for entry in catalogue([folder / "out.jpg"])[0]] == ["out.jpg"]
    (folder / "own.png").unlink()
    (folder / "within.png").unlink()
    with pytest.raises(UserError, match="2 links that lead out of it were left out; name them"):
        catalogue([folder])


def test_of_a_slide_with_an_empty_frame_the_scanned_part_is_shown_and_outlines_lie_in_it(tmp_path: Path) -> None:
    area = tissue_image(512, 640)
    write_leica(tmp_path / "a.scn", [area, halve(area)], (2000, 2400), (1024, 1536), 0.25)
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1124, 1546]}}
    (tmp_path / "a.geojson").write_text(json.dumps(point))
    ((entry,), _) = catalogue([tmp_path / "a.scn"])
    assert tuple(entry.pyramid.size) == (640, 512)
    (outline,) = entry.outlines(entry)
    assert outline.paths == [[100, 10]]
    assert np.array_equal(entry.pyramid.tile(1, 0, 0), area[:511, :511])
