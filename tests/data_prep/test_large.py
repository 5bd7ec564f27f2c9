"""A large, mostly empty slide with sparse storage: time and memory depend on its tissue."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fixtures.slides import tissue_image
from benchmarks.fixtures.sparse_slide import write_sparse_slide
from data_prep.slides.slide import Plane, open_slide
from ldm.data.h5 import SlideFile

SIDE, ISLAND = 16_000, 1024
PLACES = ((2048, 4096), (12288, 12288))
COMMAND = """
import sys
from pathlib import Path
from data_prep.prepare import main
status = main(sys.argv[1:])
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)  # ru_maxrss is the parent's too
sys.exit(status)
"""


@pytest.mark.slow
def test_all_eight_scales_of_a_sparse_slide_in_little_memory(tmp_path: Path) -> None:
    island = tissue_image(ISLAND, ISLAND)
    path = write_sparse_slide(tmp_path / "slides" / "a.tiff", SIDE, island, PLACES)
    assert path.stat().st_size < 20e6
    plane = Plane(open_slide(path, "histology"), 0.5)
    assert (plane.read(7000, 0, 8, 8) == 255).all()  # never black
    x, y = (place - round(origin) for place, origin in zip(PLACES[0], plane.origin_l0, strict=True))
    assert np.abs(plane.read(x, y, 256, 256).mean((0, 1)) - island[:256, :256].mean((0, 1))).max() < 2
    arguments = ["--config", "configs/demo/data.yaml", f"slides={path.parent}", f"out={tmp_path / 'out'}"]
    arguments += ["generate=null", "ladder.scales=8", "tile_px=128", "autoencoder=null", "tissue_share=0"]
    process = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments, "--workers", "0"], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.splitlines()[-1]) < 2000  # MB
    slide = SlideFile(tmp_path / "out" / "a.h5")
    assert len(slide.ladder.names) == 8
    assert all(slide.count(name) > 0 for name in slide.ladder.names)
