"""The preview head of one autoencoder, with its weights' ids: see `ldm.networks.preview_head`."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from ldm.errors import UserError
from ldm.hub import PREVIEW, WEIGHTS, load_network, open_source, save_model
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.preview_head import Linearised, PreviewHead
from ldm.support.bundled_models import MODELS


@dataclass(eq=False)
class PreviewModel:
    """Latents to the image at half its resolution, and how well."""

    network: PreviewHead
    id: str = ""
    """names the weights"""
    config_id: str = ""
    """id of the network settings in the config"""
    decoder_id: str = ""
    """id of the decoder whose images it learnt"""
    config: DictConfig | None = None
    """what builds it again"""

    @classmethod
    def load(cls, source: str | Path) -> "PreviewModel":
        """From "demo" or "satellite", a preview run's folder or a name on the hub: see `ldm.hub`."""
        found = open_source(source, "preview")
        network = load_network(found, "preview", {"preview": found.tensors})
        return cls(network, found.id, found.config_id, str(found.config.get("decoder_id")), found.config)

    @classmethod
    def of(cls, autoencoder: Autoencoder, folder: Path, source: str | Path | None = None) -> "PreviewModel | None":
        """The head of an autoencoder: `source`, else the one saved in the model's `folder`, else a bundled one, if any.

        UserError when `source`, or the one in `folder`, learnt the images of another decoder.
        """
        decoder_id, own = autoencoder.decoder_id(), folder / PREVIEW
        if source is None and not (own / WEIGHTS).is_file():
            bundled = [cls.load(model.name) for model in MODELS.values() if model.weights(PREVIEW).is_file()]
            return next((head for head in bundled if head.decoder_id == decoder_id), None)
        head = cls.load(own if source is None else source)
        if head.decoder_id != decoder_id:
            raise UserError(
                f"preview: {head.id} learnt the images of decoder {head.decoder_id}, but the model's is {decoder_id}; "
                "give the head that was trained on this autoencoder"
            )
        return head

    def save(self, folder: str | Path) -> None:
        """Write config, weights and their sha256, which `load` reads back. UserError when the disk refuses."""
        if self.config is None:
            raise UserError("preview: was not loaded, so there is no config to save; use PreviewModel.load")
        save_model(Path(folder), self.config, self.network.state_dict(), "preview")

    @property
    def weights(self) -> dict[str, str]:
        """Ids of everything that its images depend on."""
        return {"preview": self.id, "preview config": self.config_id}

    def linearised(self, z: Tensor) -> Linearised:
        """The image (b, 3, H / 2, W / 2) in [-1, 1], not clamped, of z (b, 3, h, w), and its Jacobian there."""
        return self.network.linearised(z)

    @property
    def error(self) -> float:
        """Root mean square of its error on validation latents."""
        return float(self.network.error[0])
