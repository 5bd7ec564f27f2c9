"""A web server for one person on one machine: 127.0.0.1 only, and only for pages that it served itself.

A request whose Host is another name (DNS rebinding) or that another site's page makes is refused; what is served may
load nothing from elsewhere (Content-Security-Policy) and is not kept by the browser.
"""

import socket
from typing import TYPE_CHECKING

from ldm.errors import UserError

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ADDRESS = "127.0.0.1"
HOSTS = [ADDRESS, "localhost"]
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
OWN_SITES = (None, b"same-origin", b"none")
"""of the header Sec-Fetch-Site: absent, by a page of ours, typed by the user"""
STOP_S = 2
"""how long requests may take to end after Ctrl-C"""


class _Guard:
    """Adds HEADERS, and refuses what another site asks for, but for following a link."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.responses import PlainTextResponse

        async def with_headers(message: "Message") -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"])
        app = self._app
        if sent.get(b"sec-fetch-site") not in OWN_SITES and sent.get(b"sec-fetch-mode") != b"navigate":
            app = PlainTextResponse("asked for by another site", 403)
        await app(scope, receive, with_headers)


def application(routes: "list[BaseRoute]") -> "Starlette":
    """`routes` behind the checks."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    guards = [Middleware(_Guard), Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)]
    return Starlette(routes=routes, middleware=guards)


def listen(port: int | None, usual: int) -> socket.socket:
    """A listening socket: at `port`, UserError where it is taken, or without one at `usual`, else at any free port."""
    for number in (usual, 0) if port is None else (port,):
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((ADDRESS, number))
            found.listen()
            return found
        except OSError as error:
            found.close()
            refused = error
    raise UserError(
        f"--port: {port} cannot be used ({refused.strerror}); choose another, or leave it out for a free one"
    )


def address_of(listening: socket.socket) -> str:
    """The address to type into a browser."""
    return f"http://{ADDRESS}:{listening.getsockname()[1]}/"


def server_of(app: "Starlette") -> "uvicorn.Server":
    """Its `run(sockets=[...])` serves until Ctrl-C or SIGTERM, and then raises KeyboardInterrupt.

    `app.state.server` is it, so that long requests can see that it is to end.
    """
    import uvicorn

    app.state.server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=STOP_S,
        )
    )
    return app.state.server
