"""Put finished runs into the package as the demo model: weights in half precision, and the config that made them.

    python scripts/bundle_demo.py runs/VQ runs/ZOOMLDM runs/CDM

A run's system says which of the bundled folders it replaces.
"""

import argparse
from pathlib import Path

from omegaconf import OmegaConf

from ldm.checkpoint import save_weights
from ldm.errors import cli
from ldm.files import whole
from ldm.sources import BUNDLED, open_source


def bundle(run: Path) -> Path:
    """Copy one run; returns the folder it went to. UserError when the run is not finished."""
    source = open_source(run, "vq", "zoomldm", "cdm")
    folder = BUNDLED / source.config.system
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in source.tensors.items()}
    save_weights(folder / "weights.safetensors", half)
    with whole(folder / "config.yaml") as partial:
        OmegaConf.save(source.config, partial)
    return folder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Put finished runs into the package as the demo model.",
        epilog="example: python scripts/bundle_demo.py runs/demo-vq",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of main.py")
    for run in parser.parse_args(argv).runs:
        folder = bundle(run)
        print(f"{run} -> {folder}: {(folder / 'weights.safetensors').stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    cli(main)
