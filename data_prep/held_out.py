"""Demo slides for measuring the bundled model: held-out ones, and some of its training slides.

Drawn and prepared on first use.
"""

from pathlib import Path

from data_prep.crops import cut
from data_prep.preparation import prepare
from data_prep.preparation_config import load_prepare_config
from ldm.demo.world import generate

ROOT = Path("data/demo")
SLIDE_PX = 4096
SEED, COUNT = 300, 16
"""seeds of held-out slides; the bundled networks were trained on some of the seeds 100 to 219"""


TRAINED, TRAINED_COUNT = 101, 12
"""seeds of training slides"""


def held_out_cohort() -> Path:
    """The folder of prepared held-out slides, with lossless patches of every scale."""
    return _prepared("held_out", SEED, COUNT)


def training_cohort() -> Path:
    """The folder of prepared training slides, with lossless patches."""
    return _prepared("trained_on", TRAINED, TRAINED_COUNT)


def _prepared(name: str, seed: int, count: int) -> Path:
    folder = ROOT / f"{name}_cohort"
    changes = {"slides": ROOT / name, "pattern": f"histology_{seed // 100}*.tiff", "out": folder, "images": "png"}
    changes |= {"generate.seed": seed, "generate.count": count, "workers": 1}
    prepare(load_prepare_config(["configs/demo/data.yaml"], [f"{key}={value}" for key, value in changes.items()]))
    return folder


def held_out_pictures(size_px: int, count: int) -> list[Path]:
    """`count` pictures of size_px at 20x, taken from the held-out slides in turn."""
    paths = generate(ROOT / "held_out", COUNT, SEED, "histology", SLIDE_PX)
    each = -(-count // COUNT)
    cuts = cut(paths, "histology", size_px, each, ROOT / f"held_out_{size_px}")
    return sorted(cuts, key=lambda path: cuts.index(path) % each)[:count]
