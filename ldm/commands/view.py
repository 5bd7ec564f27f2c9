"""Serve the page of some files until Ctrl-C, or write it to a folder."""

import argparse
import sys

from data_prep.slides.find import shown
from ldm.errors import when_stopped
from ldm.view.catalogue import catalogue
from ldm.view.export import export
from ldm.view.local_server import address_of, listen, server_of
from ldm.view.server import app_of
from ldm.view.site import Site

PORT = 8420


def run(args: argparse.Namespace) -> int:
    entries, notes = catalogue(args.paths)
    for note in notes:
        print(note, file=sys.stderr)
    title = shown(args.paths[0].resolve().name) if len(args.paths) == 1 else f"{len(entries)} images"
    site = Site(title, entries)
    if args.export is not None:
        with when_stopped("the same command begins the page again"):
            print(export(site, args.export))
        return 0
    serve(site, args.port)
    return 0


def serve(site: Site, port: int | None) -> None:
    """Serve until Ctrl-C, which is how it is meant to end."""
    listening = listen(port, PORT)
    print(f"{address_of(listening)}   Ctrl-C ends it", flush=True)
    try:
        server_of(app_of(site)).run(sockets=[listening])
    except KeyboardInterrupt:
        print()
