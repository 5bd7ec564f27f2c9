"""Feature spaces by name: Inception's, or an encoder's."""

from collections.abc import Mapping

from ldm.encoders.tile_encoders import load_encoder
from ldm.errors import UserError
from ldm.evaluation.metrics.extractors import Extractor, Inception


def space(name: str, weights: Mapping[str, str], device: str) -> Extractor:
    """The extractor `name`, or one by its id; `weights`: local files of some, by name.

    UserError for an unknown name, or weights that are missing and cannot be downloaded.
    """
    path = next((path for key, path in weights.items() if name == key or name.startswith(f"{key}-")), None)
    if name == "inception":
        return Inception(path, device)
    try:
        return load_encoder(name, path, device)
    except UserError as error:
        here = f" (here: --weights {name}=PATH)" if "encoder.weights" in str(error) else ""
        raise UserError(f"{error}{here}") from error
