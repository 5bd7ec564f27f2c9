"""The console command `zoomldm COMMAND ...`: each COMMAND is the same code as a script of a checkout.

A command's module is imported only when it is chosen, so that `zoomldm --help` is immediate.
"""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from ldm.errors import UserError, cli


class Command(NamedTuple):
    """The module with its `main(argv)`, and one line of help."""

    module: str
    about: str


COMMANDS = {
    "demo": Command("ldm.cli.demo", "the whole pipeline at toy size, in the current folder: ten minutes"),
    "sample": Command("ldm.cli.sample", "sample patches at every scale of a model"),
    "joint": Command("ldm.cli.joint", "sample one large image at several scales at once"),
    "palette": Command("ldm.cli.palette", "collect what each class looks like, for joint --layout"),
    "superres": Command("ldm.cli.superres", "enlarge images 2x to 16x"),
    "explore": Command("ldm.cli.explore", "look at a slide that never ends, computed as you look"),
    "view": Command("ldm.cli.view", "look at slides, scenes, pictures and results in a browser"),
    "prepare": Command("data_prep.prepare", "slides -> one HDF5 file per slide: embeddings and latents"),
    "splits": Command("data_prep.splits", "decide by patient which slides train, validate and test"),
    "train": Command("ldm.cli.train", "train an autoencoder, a ZoomLDM, a CDM or a ControlNet from YAML"),
    "evaluate": Command("ldm.cli.evaluate", "measure a model: patches, large images, super-resolution, memorisation"),
    "features": Command("ldm.cli.features", "extract tile features of a prepared cohort, one bag per slide"),
    "mil": Command("ldm.cli.mil", "learn slide labels from bags of tile features"),
    "export": Command("ldm.cli.export", "write U-Net and autoencoder in the layout of diffusers"),
    "crops": Command("data_prep.crops", "cut large images out of the tissue of slides"),
    "draw": Command("ldm.cli.draw", "draw demo slides or satellite scenes"),
    "doctor": Command("ldm.cli.doctor", "check the environment, a cohort, a model or a training config"),
}
USAGE = "usage: zoomldm COMMAND ...      zoomldm COMMAND --help      zoomldm --version"


def help_text() -> str:
    """Usage, and one line per command."""
    width = max(map(len, COMMANDS))
    return "\n".join([USAGE, "", *(f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items())])


def call(name: str, argv: Sequence[str]) -> int:
    """Run the command `name` in this process; returns its exit status."""
    status = import_module(COMMANDS[name].module).main(list(argv))
    return status if isinstance(status, int) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status. UserError for a command that is unknown."""
    name, *arguments = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if name == "--version":
        from ldm.support.package import project

        print(f"zoomldm {project().version}")
        return 0
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else f"it is one of {', '.join(COMMANDS)}"
        raise UserError(f"zoomldm: {name[:80]!r} is no command; {hint}")
    return call(name, arguments)


def entry() -> None:
    """What the console script runs."""
    cli(main)


if __name__ == "__main__":
    entry()
