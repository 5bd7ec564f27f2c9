"""Options that several commands have, each with one name, one type and one meaning. `add` is add_argument."""

from collections.abc import Callable
from typing import Any

from ldm.support.arguments import ACCELERATORS, device, positive_int
from ldm.support.precision import add_precision

Add = Callable[..., Any]


def add_model(add: Add) -> None:
    """--model: which weights."""
    add(
        "--model",
        default="demo",
        help="demo (the default), a folder, a weights file, or a name on the hub: StonyBrook-CVLab/ZoomLDM/brca",
    )


def add_device(add: Add) -> None:
    """--precision and --device of a command that uses one device."""
    add_precision(add)
    add("--device", type=device, default="auto", help="auto: cuda where there is a card, else cpu (%(default)s)")


def add_machines(add: Add, shared: str) -> None:
    """--precision, --devices, --nodes and --accelerator of a command whose processes share its `shared`."""
    add_precision(add)
    add("--devices", type=positive_int, default=1, help=f"GPUs or processes that share the {shared} (%(default)s)")
    add("--nodes", type=positive_int, default=1, help="machines (%(default)s)")
    add("--accelerator", choices=ACCELERATORS, default="auto", help="cpu, cuda ... (%(default)s)")
