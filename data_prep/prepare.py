"""Slides -> a cohort of prepared slides, one HDF5 file each: the data that everything else trains on.

    python data_prep/prepare.py --config configs/demo/data.yaml [--workers 8] [--devices 4] [key=value ...]

Files are written atomically, so an interrupted run is continued by running the command again: complete files with the
same settings are kept. A slide that cannot be prepared does not stop the others; it is listed in report.json and on the
last line. Files depend neither on the number of workers nor on batches. Several commands may prepare the same cohort at
once, also on several machines that share the disk: each slide is prepared by one of them.

Exit status: 0 done; 1 some slides failed; 2 a mistake in the input, or a full disk; 75 stopped by SIGTERM or SIGUSR1,
130 by Ctrl-C: the same command continues.
"""

import argparse
from collections.abc import Sequence

from ldm.errors import UserError, cli
from ldm.support.arguments import Parser

FLAGS = {
    "workers": "processes that read slides; 0: all in one process",
    "mpp": "um (m) per pixel of slides that do not say theirs",
    "shard": "I/N: of N jobs that share a cohort, this is number I, from 0 on",
    "devices": "GPUs (or, on a CPU, processes) that run the networks, each with its own workers",
    "nodes": "machines of this job",
}
"""command-line options that set a key of the config"""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = Parser("prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, or a bundled one: demo, mine, histology, satellite")
    for flag, meaning in FLAGS.items():
        parser.add_argument(f"--{flag}", metavar=flag[0].upper(), help=meaning)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace the config's")
    arguments = parser.parse_intermixed_args(argv)
    flags = {flag: getattr(arguments, flag) for flag in FLAGS if getattr(arguments, flag) is not None}
    for key in (item.partition("=")[0] for item in arguments.overrides):
        if key in flags:
            raise UserError(f"{key}: found both as --{key} and as {key}=; give one of them")
    from data_prep.preparation import command

    return command(arguments.config, [*arguments.overrides, *(f"{flag}={value}" for flag, value in flags.items())])


if __name__ == "__main__":
    cli(main)
