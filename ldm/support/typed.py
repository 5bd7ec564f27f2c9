"""What to type for a command: `zoomldm sample`, or `python scripts/sample_patches.py` in a process that was begun so.

Usage texts and the remedies in errors name commands in the form that the user knows. The Python API, notebooks and
tests get the `zoomldm` form, which works in any folder.
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
"""subcommands of `zoomldm` and the file of a checkout that runs the same code"""


def typed(command: str) -> str:
    """What begins a command line of `command`, a key of SCRIPTS."""
    begun = Path(sys.argv[0]).name if sys.argv else ""
    by_script = begun in {Path(script).name for script in SCRIPTS.values()}
    return f"python {SCRIPTS[command]}" if by_script else f"zoomldm {command}"
