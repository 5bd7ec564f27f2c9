"""The images that joint sampling writes: a pyramid of the finest scale, and one of each coarser canvas."""

from pathlib import Path

from ldm.images.cog import CogWriter
from ldm.images.contact_sheet import Pixels
from ldm.images.pyramid_tiff import PyramidWriter
from ldm.images.rasters import Place
from ldm.images.tensors import to_uint8
from ldm.multiscale.joint import Joint


def canvas_name(scale: str) -> str:
    """Name of the file with the canvas of a coarser scale."""
    return f"canvas_{scale}.tiff"


def writer_of(joint: Joint, scale: str, path: Path, place: Place | None) -> PyramidWriter | CogWriter:
    """A pyramidal TIFF with um per pixel; a Cloud-Optimised GeoTIFF where the image lies at `place`, in base pixels."""
    height, width = (length // joint.chain.factor(scale) for length in (joint.height, joint.width))
    if place is None:
        return PyramidWriter(path, height, width, joint.model.ladder.um(scale))
    return CogWriter(path, height, width, place.scaled(joint.model.ladder[scale].downsample))


def canvas(joint: Joint, scale: str) -> Pixels:
    """The finished canvas of a coarser scale, without what lies beyond the image's edge."""
    height, width = (length // joint.chain.factor(scale) for length in (joint.height, joint.width))
    return to_uint8(joint.image(scale)[None])[0][:height, :width]


def write_canvases(joint: Joint, out: Path, place: Place | None) -> None:
    """Write the coarser canvases."""
    for scale in joint.scales[1:]:
        with writer_of(joint, scale, out / canvas_name(scale), place) as writer:
            writer.write(canvas(joint, scale))
