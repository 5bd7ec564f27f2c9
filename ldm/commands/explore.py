"""Serve the page of an endless slide until Ctrl-C, or write a region of it."""

import argparse
import socket

from tqdm import tqdm

from ldm.commands.preview_note import tell_without_preview
from ldm.endless.endless_world import World
from ldm.endless.lattice import Area
from ldm.errors import when_stopped
from ldm.explore.tile_server import app_of
from ldm.images.pyramid_tiff import PyramidWriter
from ldm.pipeline import ZoomLDM
from ldm.support.precision import announce, chosen_device
from ldm.view.local_server import address_of, listen, server_of
from ldm.view.openseadragon import cache_folder

PORT = 8421


def run(args: argparse.Namespace) -> None:
    listening = listen(args.port, PORT) if args.area is None else None
    device = chosen_device(args.device)
    model = ZoomLDM.load(args.model, cdm=args.cdm, preview=args.preview, device=device, precision=args.precision)
    announce(model.precision, model.device)
    tell_without_preview("default", model)
    world = World(model, seed=args.seed, cache=cache_folder() / "explore", threads=args.threads)
    try:
        if listening is not None:
            serve(world, f"{args.model}, seed {args.seed}", listening)
        else:
            with when_stopped("the same command continues with what was computed"):
                write(world, args)
    finally:
        world.close()


def write(world: World, args: argparse.Namespace) -> None:
    """The region as pyramidal TIFF with um per pixel, in bands: memory does not grow with its height."""
    x, y, width, height = args.area
    scale = world.scales[0]
    with (
        PyramidWriter(args.export, height, width, world.um(scale)) as writer,
        tqdm(total=height, desc="sampling", unit="row") as bar,
    ):
        for band in world.bands(scale, Area(y, x, y + height, x + width)):
            writer.write(band)
            bar.update(len(band))
    print(args.export)


def serve(world: World, title: str, listening: socket.socket) -> None:
    """Serve until Ctrl-C, which is how it is meant to end."""
    print(f"{address_of(listening)}   Ctrl-C ends it", flush=True)
    world.submit_draft(-1, -1)  # in the middle of the first view: begun before the browser asks
    try:
        server_of(app_of(world, title)).run(sockets=[listening])
    except KeyboardInterrupt:
        print()
