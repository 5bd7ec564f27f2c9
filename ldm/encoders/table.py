"""The published tile encoders: repository, architecture, input and tokens of each, as its publisher states them.

All are built by timm and read from the file that the publisher put on the hub. The repository's page states the
licence; most have to be accepted there, after `hf auth login`. Any other encoder is loaded by its timm name, or as
hf-hub:ORG/NAME where timm saved the repository.

The weights could not be downloaded where this was written, so rows were checked against what publishers state: class
and patch tokens, width, mean and std, and parameter counts. Unconfirmed: that the position embeddings in the files of
Midnight and Hibou are those of 224 px. A file of another size or architecture is refused when it is loaded.

CONCH v1.5 is missing: its attention pooling exists only as code in its repository.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from timm.layers import SwiGLUPacked
from torch import nn

RGB = tuple[float, float, float]
IMAGENET: tuple[RGB, RGB] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI: tuple[RGB, RGB] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: tuple[RGB, RGB] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
H_OPTIMUS: tuple[RGB, RGB] = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HIBOU: tuple[RGB, RGB] = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
SATELLITE: tuple[RGB, RGB] = ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))
TIMM_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""names of weights files in a repository; the first that exists is read"""
SWIGLU: Mapping[str, Any] = MappingProxyType({"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU})


@dataclass(frozen=True)
class Published:
    """One encoder. Tiles are resized to `size` pixels a side, scaled to [0, 1] and normalised by mean and std."""

    hub: str
    """repository on the hub; empty when it is not there"""
    architecture: str
    """timm's name"""
    width: int
    """channels d of an embedding"""
    normalisation: tuple[RGB, RGB]
    """mean and std"""
    tokens: Literal["class", "class and mean", "projected"] = "class"
    """class token; class token and mean of the patch tokens (without registers), concatenated; or the head's output"""
    size: int = 224
    interpolation: str = "bicubic"
    options: Mapping[str, Any] = field(default_factory=dict)
    """arguments that differ from timm's defaults for the architecture"""
    files: tuple[str, ...] = TIMM_FILES
    elsewhere: str = ""
    """where to download the weights when they are not on the hub"""

    @property
    def network_options(self) -> dict[str, Any]:
        """Arguments of timm.create_model besides the architecture."""
        head: dict[str, Any] = {"num_classes": self.width} if self.tokens == "projected" else {"num_classes": 0}
        pool = {"class": {"global_pool": "token"}, "class and mean": {"global_pool": ""}}.get(self.tokens, {})
        return {"img_size": self.size, **head, **pool, **self.options}


UNI2 = {
    **{"patch_size": 14, "depth": 24, "num_heads": 24, "embed_dim": 1536, "mlp_ratio": 2.66667 * 2, "reg_tokens": 8},
    **{"init_values": 1e-5, "no_embed_class": True, "dynamic_img_size": True, **SWIGLU},
}
VIRCHOW2 = {"init_values": 1e-5, "reg_tokens": 4, "mlp_ratio": 5.3375, "dynamic_img_size": True, **SWIGLU}
GIGAPATH = {"patch_size": 16, "mlp_ratio": 5.33334, "init_values": 1e-5}
H0_MINI = {"mlp_ratio": 5.33334, "init_values": 1e-5, "dynamic_img_size": True, **SWIGLU}
HIBOU_B = {"mlp_ratio": 5.33334, "init_values": 1e-5, **SWIGLU}
HIBOU_L = {"mlp_ratio": 5.34375, "init_values": 1e-5, **SWIGLU}  # two thirds of 4 x 1024, rounded up to a multiple of 8
HIPT_FILE = "HIPT_4K/Checkpoints/vit256_small_dino.pth of https://github.com/mahmoodlab/HIPT"

GATED = {
    *("uni", "uni2-h", "virchow2", "h-optimus-0", "h-optimus-1", "h0-mini", "prov-gigapath", "hibou-l", "conch"),
}
"""whose weights the hub gives to those alone who have accepted the licence on their page"""

PUBLISHED: dict[str, Published] = {
    "uni": Published(
        "MahmoodLab/UNI",
        "vit_large_patch16_224",
        1024,
        IMAGENET,
        options={"init_values": 1e-5, "dynamic_img_size": True},
    ),
    "uni2-h": Published("MahmoodLab/UNI2-h", "vit_giant_patch14_224", 1536, IMAGENET, options=UNI2),
    "virchow2": Published(
        "paige-ai/Virchow2", "vit_huge_patch14_224", 2560, IMAGENET, "class and mean", options=VIRCHOW2
    ),
    "h-optimus-0": Published("bioptimus/H-optimus-0", "vit_giant_patch14_reg4_dinov2", 1536, H_OPTIMUS),
    "h-optimus-1": Published("bioptimus/H-optimus-1", "vit_giant_patch14_reg4_dinov2", 1536, H_OPTIMUS),
    "h0-mini": Published(
        "bioptimus/H0-mini", "vit_base_patch14_reg4_dinov2", 1536, H_OPTIMUS, "class and mean", options=H0_MINI
    ),
    "prov-gigapath": Published(
        "prov-gigapath/prov-gigapath", "vit_giant_patch14_dinov2", 1536, IMAGENET, options=GIGAPATH
    ),
    "phikon-v2": Published("owkin/phikon-v2", "vit_large_patch16_224", 1024, IMAGENET, options={"init_values": 1e-5}),
    "hibou-b": Published("histai/hibou-b", "vit_base_patch14_reg4_dinov2", 768, HIBOU, options=HIBOU_B),
    "hibou-l": Published("histai/hibou-L", "vit_large_patch14_reg4_dinov2", 1024, HIBOU, options=HIBOU_L),
    "gpfm": Published("majiabo/GPFM", "vit_large_patch14_dinov2", 1024, IMAGENET, files=("GPFM.pth",)),
    "midnight": Published("kaiko-ai/midnight", "vit_giant_patch14_dinov2", 3072, HALF, "class and mean"),
    "dinov2": Published("timm/vit_large_patch14_reg4_dinov2.lvd142m", "vit_large_patch14_reg4_dinov2", 1024, IMAGENET),
    "dinov2-l": Published(  # the space of FD-DINOv2 (Stein et al. 2023): no registers
        "timm/vit_large_patch14_dinov2.lvd142m", "vit_large_patch14_dinov2", 1024, IMAGENET
    ),
    "dinov3": Published("timm/vit_large_patch16_dinov3.lvd1689m", "vit_large_patch16_dinov3", 1024, IMAGENET, size=256),
    "dinov3-sat": Published(
        "timm/vit_large_patch16_dinov3.sat493m", "vit_large_patch16_dinov3", 1024, SATELLITE, size=256
    ),
    "clip": Published(  # the space of CLIP-FID: the projected image embedding
        "timm/vit_base_patch32_clip_224.openai", "vit_base_patch32_clip_quickgelu_224", 512, OPENAI, "projected"
    ),
    "clip-l-336": Published(  # the space of CMMD
        "timm/vit_large_patch14_clip_336.openai",
        "vit_large_patch14_clip_quickgelu_336",
        768,
        OPENAI,
        "projected",
        size=336,
    ),
    "hipt": Published("", "vit_small_patch16_224", 384, HALF, size=256, elsewhere=HIPT_FILE),
}
