"""The page as a server: every address is a number of something in the list, so that no path can lead elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.errors import UserError, one_line
from ldm.view.local_server import application
from ldm.view.site import TYPES, Site

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


def app_of(site: Site) -> "Starlette":
    """The application that serves `site`."""
    from starlette.responses import Response
    from starlette.routing import Route

    def numbered(suffix: str, make: Any) -> Any:
        """A handler that calls `make` with the numbers of the address."""

        def handle(request: "Request") -> "Response":
            try:
                return Response(make(*map(_number, request.path_params.values())), media_type=TYPES[suffix])
            except IndexError:
                return Response("there is no such thing", 404)
            except (UserError, OSError) as error:
                return Response(one_line(str(error)), 500, media_type="text/plain")

        return handle

    def file(request: "Request") -> "Response":
        name = request.path_params.get("name", "index.html")
        if name not in site.files:
            return Response("there is no such thing", 404)
        return Response(site.files[name], media_type=TYPES[Path(name).suffix])

    return application(
        [
            Route("/", file),
            Route("/tiles/{entry}/{layer}/{level}/{col}_{row}.png", numbered(".png", site.tile)),
            Route("/thumbnails/{entry}.png", numbered(".png", site.thumbnail)),
            Route("/entries/{entry}.js", numbered(".js", site.entry)),
            Route("/outlines/{entry}.js", numbered(".js", site.outlines)),
            Route("/{name}", file),
        ]
    )


def _number(text: str) -> int:
    """A number of at most nine digits. IndexError for anything else, which names nothing."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise IndexError(text[:20])
    return int(text)
