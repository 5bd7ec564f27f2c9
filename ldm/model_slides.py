"""Whether a prepared slide matches a model.

Embeddings need a model with the same encoder, patch size and ladder (`matching_slide`); latents also need the same
encoding, with any decoder (`latents`).

Shapes: n regions, h, w latents a side.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.images.contact_sheet import Pixels
from ldm.images.rasters import Place, check_crs, metres_per_pixel
from ldm.images.tensors import to_uint8
from ldm.pipeline import ZoomLDM


def matching_slide(path: str | Path, model: ZoomLDM) -> SlideFile:
    """Open a prepared slide. UserError when its encoder, patch size or ladder differs from the model's."""
    slide = SlideFile(path)
    expected = {"encoder": model.encoder, "tile_px": model.tile_px, "kind": model.ladder.kind}
    for key, value in expected.items():
        found = slide.attrs[key]
        if found != value and not (key == "encoder" and found.startswith(f"{value}-")):
            raise UserError(f"{path}: {key} is {found}, but the model's is {value}; prepare the slide for this model")
    return slide


SAMPLING_TOLERANCE = 0.1
"""share by which a picture's metres per pixel may differ from those of the scale that it is taken for"""


def kind_notes(place: Place | None, model: ZoomLDM, scale: str) -> list[str]:
    """Warnings where a georeferenced picture is given to a `model` of something else than scenes, or is taken for
    one of `scale` though its pixels are of another size.
    """
    if place is None:
        return []
    if model.ladder.kind != "satellite":
        told = f"is georeferenced, but the model is of {model.ladder.kind}; give --model one of scenes, as satellite is"
        return [told]
    expected, metres = model.ladder.um(scale) / 1e6, metres_per_pixel(place)
    if metres is None or abs(metres / expected - 1) <= SAMPLING_TOLERANCE:
        return []
    wanted = f"{expected:g} m, those of {scale}, for which it is taken"
    return [f"its pixels are {metres:.3g} m wide, expected {wanted}; gdalwarp -tr {expected:g} {expected:g} IN OUT"]


def tile_place(slide: SlideFile, tile: tuple[int, int]) -> Place | None:
    """Georeference of base tile (row, col), in base pixels; None where the slide's source had none.

    UserError for an unknown crs.
    """
    attrs = slide.attrs
    if not attrs.get("transform"):
        return None
    a, b, c, d, e, f = map(float, attrs["transform"].split())
    check_crs(attrs.get("crs", ""), str(slide.path))
    corner_l0 = attrs.get("origin_x_l0", 0.0), attrs.get("origin_y_l0", 0.0)
    base = Place(attrs.get("crs", ""), (a, b, c, d, e, f)).moved(*corner_l0).scaled(slide.base_l0)
    return base.moved(tile[1] * attrs["tile_px"], tile[0] * attrs["tile_px"])


def encoded_alike(slide: SlideFile, model: ZoomLDM) -> bool:
    """Whether the latents have the model's encoding; True for slides of earlier versions, which did not record it."""
    return slide.attrs.get("latents_id", model.latents_id) == model.latents_id


def latents(slide: SlideFile, scale: str, rows: Sequence[int], model: ZoomLDM) -> Tensor:
    """(n, 3, h, w) float32 of regions `rows`, unquantised.

    UserError when they have another encoding than the model's, or are missing.
    """
    found = slide.latents(scale, rows)
    if not encoded_alike(slide, model):
        raise UserError(
            f"{slide.path}: its latents are of {slide.attrs['autoencoder']} (latents_id {slide.attrs['latents_id']}), "
            f"but the model's autoencoder makes others ({model.latents_id}); give --model what they were made for, or "
            "prepare the slide with autoencoder=MODEL"
        )
    return found


def has_pictures(slide: SlideFile, scale: str, model: ZoomLDM) -> bool:
    """Whether the slide has images, or latents that the model can decode."""
    return slide.has_images(scale) or (bool(slide.attrs.get("autoencoder")) and encoded_alike(slide, model))


def pictures(slide: SlideFile, scale: str, rows: Sequence[int], model: ZoomLDM) -> list[Pixels]:
    """Regions `rows` (tile_px, tile_px, 3) as stored or, in a slide without images, decoded. UserError as `latents`."""
    if slide.has_images(scale):
        return slide.images(scale, rows)
    return list(to_uint8(model.decode(latents(slide, scale, rows, model).to(model.device))))
