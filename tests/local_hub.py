"""A small server on this machine that speaks the part of the Hugging Face hub's API that models need."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".ckpt", ".bin")
"""files that are stored under their sha256"""


@dataclass
class Repo:
    """A repository with one commit, on main."""

    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    sent: dict[str, bytes] = field(default_factory=dict)
    """what downloads give in place of a file"""


class Hub(ThreadingHTTPServer):
    """`repos` by ORG/NAME. `cut_after` bytes of each answer the connection is dropped, `cuts` times."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.cut_after, self.cuts = 0, 0
        self.page = b""
        """what a network that wants a login gives in place of every answer"""
        self.asked: list[tuple[str, str, str]] = []
        """method, path and Range of each request"""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may hang up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, error: str = "") -> None:
        self.send_response(status)
        for name, value in ({"X-Error-Code": error} if error else {} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cuts and len(body) > self.server.cut_after:
            self.server.cuts -= 1
            self.wfile.write(body[: self.server.cut_after])
            self.wfile.flush()
            self.connection.shutdown(2)
            self.close_connection = True
            return
        self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path, self.headers.get("Range") or ""))
        if self.server.page:
            self.answer(200, self.server.page, {"Content-Type": "text/html"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.about(*found.groups())
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(*found.groups())
        else:
            self.answer(404)

    do_HEAD = do_GET

    def known(self, name: str, revision: str | None) -> Repo | None:
        repo = self.server.repos.get(name)
        if repo is None:
            self.answer(401, error="RepoNotFound")
        elif revision not in (None, "main", COMMIT):
            self.answer(404, error="RevisionNotFound")
        else:
            return repo
        return None

    def about(self, name: str, revision: str | None) -> None:
        if repo := self.known(name, revision):
            siblings = [{"rfilename": file} for file in repo.files]
            info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False}
            self.answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def file(self, name: str, revision: str, file: str) -> None:
        if not (repo := self.known(name, revision)):
            return
        if repo.gated:
            self.answer(403, error="GatedRepo")
        elif file not in repo.files:
            self.answer(404, error="EntryNotFound")
        else:
            stated, body = repo.files[file], repo.sent.get(file, repo.files[file])
            digest = (hashlib.sha256 if file.endswith(LARGE) else hashlib.sha1)(stated).hexdigest()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
            begin = int((self.headers.get("Range") or "bytes=0-")[len("bytes=") :].partition("-")[0])
            if begin:
                headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            self.answer(206 if begin else 200, body[begin:], headers)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.asked.append(("POST", path, ""))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repos.setdefault(name, Repo())
            self.json({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self.json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            lines = [json.loads(line) for line in body.splitlines()]
            added = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            self.server.repos[found[1]].files |= added
            page = f"{self.server.url}/{found[1]}/commit/{COMMIT}"
            self.json({"success": True, "commitOid": COMMIT, "commitUrl": page, "hookOutput": ""})
        else:
            self.json({})

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def use(patch: pytest.MonkeyPatch, endpoint: str, cache: Any) -> None:
    """Point the real client, which reads these settings from the environment once, at `endpoint` and `cache`."""
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setenv("HF_TOKEN", "hf_test")
