"""The page as a server: tiles of a world by scale, row and column, each computed when it is asked for.

A tile whose asker has gone (the page moved on) is dropped unless its computation has begun; all are when the server
ends.
"""

import asyncio
import io
import json
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ldm.endless.endless_world import World
from ldm.endless.lattice import FARTHEST
from ldm.errors import UserError, one_line
from ldm.images.contact_sheet import Pixels
from ldm.view.local_server import application

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

OWN = Path(__file__).parent / "page"
SHARED = Path(__file__).parents[1] / "view" / "page"
FILES = {
    "index.html": OWN,
    "explore.css": OWN,
    "tiles.js": OWN,
    "explore.js": OWN,
    "view.css": SHARED,
    "geometry.js": SHARED,
    "scale_bar.js": SHARED,
}
"""files of the page, and where they are"""
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
LOOK_S = 0.2
"""between two looks whether the asker is still there, and the server goes on"""
GONE = 499
"""status for an asker who has gone; nobody reads it"""


def described(world: World, title: str) -> dict[str, Any]:
    """What the page needs to know: the layers, coarsest first, their tiles in pixels of their own, the unit, and how
    far from the start it may go, in pixels of the finest scale: half as far as the world reaches, whose tiles are all
    there, and whose numbers a browser adds exactly."""
    ladder = world.model.ladder
    layers: list[dict[str, Any]] = [
        {"address": "drafts", "name": world.scales[-1], "px": world.draft_px, "offset": world.draft_offset_px},
        *(
            {"address": f"tiles/{scale}", "name": scale, "px": world.chunk_px[scale], "offset": 0}
            for scale in reversed(world.scales)
        ),
    ]
    for layer in layers:
        layer["downsample"] = ladder[layer["name"]].downsample
    return {
        "title": title,
        "layers": layers,
        "scales": [{"name": scale.name, "downsample": scale.downsample} for scale in ladder],
        "per_pixel": ladder.base_mpp,
        "unit": ladder.unit,
        "farthest": FARTHEST // 2 * world.model.tile_px,
    }


def app_of(world: World, title: str) -> "Starlette":
    """The application that serves `world`."""
    from starlette.responses import Response
    from starlette.routing import Route

    def file(request: "Request") -> "Response":
        name = request.path_params.get("name", "index.html")
        if name == "world.json":
            return Response(json.dumps(described(world, title)), media_type="application/json")
        if name not in FILES:
            return Response("there is no such thing", 404)
        return Response((FILES[name] / name).read_bytes(), media_type=TYPES[Path(name).suffix])

    async def tile(request: "Request") -> "Response":
        scale = request.path_params["scale"]
        return await _answer(request, lambda row, col: world.submit(scale, row, col))

    async def draft(request: "Request") -> "Response":
        return await _answer(request, world.submit_draft)

    return application(
        [
            Route("/", file),
            Route("/tiles/{scale}/{row}_{col}.png", tile),
            Route("/drafts/{row}_{col}.png", draft),
            Route("/{name}", file),
        ]
    )


async def _answer(request: "Request", begin: Callable[[int, int], "Future[Pixels]"]) -> "Response":
    """The picture that `begin` computes for the row and column of the address."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response

    place = [_number(request.path_params[name]) for name in ("row", "col")]
    if None in place:
        return Response("there is no such thing", 404)
    try:
        future = begin(*place)  # type: ignore[arg-type]
        waiting = asyncio.wrap_future(future)
        while not (await asyncio.wait({waiting}, timeout=LOOK_S))[0]:
            if request.app.state.server.should_exit or await request.is_disconnected():
                future.cancel()
                return Response(status_code=GONE)
        return Response(await run_in_threadpool(png, waiting.result()), media_type="image/png")
    except CancelledError:
        return Response(status_code=GONE)
    except UserError as error:
        return Response(one_line(str(error)), 404, media_type="text/plain")


def png(pixels: Pixels) -> bytes:
    """(h, w, 3) as PNG, lightly compressed."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def _number(text: str) -> int | None:
    """A whole number of at most twelve digits; None for anything else."""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdecimal() and len(digits) <= 12 else None
