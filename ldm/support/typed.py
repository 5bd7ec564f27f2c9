"""How the user runs a command: `zoomldm sample`, or `python scripts/sample_patches.py` if started that way.

Usage texts and error messages name commands in the form that the user typed; the Python API, notebooks and tests use
the `zoomldm` form, which works in any folder.
"""

import sys
from pathlib import Path

SCRIPTS = {
    "train": "main.py",
    "prepare": "data_prep/prepare.py",
    "splits": "data_prep/splits.py",
    "crops": "data_prep/crops.py",
    "sample": "scripts/sample_patches.py",
    "joint": "scripts/sample_joint.py",
    "superres": "scripts/superres.py",
    "evaluate": "scripts/evaluate.py",
    "features": "scripts/extract_features.py",
    "mil": "scripts/train_mil.py",
    "doctor": "scripts/doctor.py",
}
"""subcommands of `zoomldm` -> the script of a checkout that runs the same code"""


def typed(command: str) -> str:
    """The beginning of a command line of `command`, a key of SCRIPTS."""
    begun = Path(sys.argv[0]).name if sys.argv else ""
    by_script = begun in {Path(script).name for script in SCRIPTS.values()}
    return f"python {SCRIPTS[command]}" if by_script else f"zoomldm {command}"
