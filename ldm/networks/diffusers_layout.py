"""Conversion of our U-Net and autoencoder to the layout of the package diffusers.

For each network: the arguments of diffusers' class, and our weights under its names. The published networks convert
exactly (Rombach et al. 2022). Refused are layouts that diffusers lacks: the U-Net's shortcuts; an autoencoder on
patches of pixels, with PixelNorm, with a head, or without a codebook; norms with other than 32 groups.
"""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from einops import rearrange
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.layers.attention import SpatialTransformer
from ldm.layers.blocks import Downsample, ResBlock, Upsample
from ldm.layers.codec import AttentionBlock, ResnetBlock
from ldm.networks.autoencoder import Autoencoder, Quantizer
from ldm.networks.unet import UNet

GROUPS = 32
Renamed = Iterator[tuple[str, str]]
"""prefixes of names: ours -> diffusers'"""
RES_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
CODEC_BLOCK = {part: part for part in ("norm1", "conv1", "norm2", "conv2")} | {"nin_shortcut": "conv_shortcut"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def diffusers_package() -> Any:
    """The package, whose classes are not typed. UserError where it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise UserError(f"diffusers: the package is missing ({error}); pip install 'zoomldm[diffusers]'") from error
    return diffusers


def unet_arguments(unet: UNet, latents: int) -> dict[str, Any]:
    """Arguments of UNet2DConditionModel for `latents` a side. UserError for a layout that it does not support."""
    if unet.context_embed is not None:
        raise UserError(
            "diffusers: the U-Net has shortcuts from the context, which UNet2DConditionModel lacks; export a model of "
            "the published layout, such as StonyBrook-CVLab/ZoomLDM/brca"
        )
    _check_groups(unet, "U-Net")
    levels, blocks = _levels(unet)
    widths = [next(_of(stages, ResBlock)).out_layers[0].num_channels for stages in levels]
    attended = [any(_of(stages, SpatialTransformer)) for stages in levels]
    heads = {module.transformer_blocks[0].attn1.heads for module in _of([unet.middle_block], SpatialTransformer)}
    inputs: Any = unet.input_blocks
    first, last = inputs[0][0], unet.out[2]
    return {
        "sample_size": latents,
        "in_channels": first.in_channels,
        "out_channels": last.out_channels,
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if found else "DownBlock2D" for found in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if found else "UpBlock2D" for found in reversed(attended)],
        "cross_attention_dim": unet.context_dim,
        "attention_head_dim": heads.pop(),  # diffusers' name of the number of heads
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }


def unet_weights(unet: UNet) -> dict[str, Tensor]:
    """The weights under the names of UNet2DConditionModel."""
    return _renamed(unet, _unet_names(unet))


def vq_arguments(autoencoder: Autoencoder, pixels: int) -> dict[str, Any]:
    """Arguments of VQModel for `pixels` a side. UserError for a layout that it does not support."""
    encoder: Any = autoencoder.encoder
    decoder, quantize = autoencoder.decoder, cast(Any, autoencoder.quantize)
    reasons = {
        "works on patches of pixels": decoder.patch != 1,
        "ends in a head": decoder.head is not None,
        "has no codebook": not isinstance(quantize, Quantizer),
        "has norms that are no GroupNorm": not isinstance(decoder.norm_out, nn.GroupNorm),
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise UserError(
            f"diffusers: the autoencoder {', '.join(wrong)}, which VQModel lacks; export a model of the published "
            "layout, such as StonyBrook-CVLab/ZoomLDM/brca"
        )
    _check_groups(autoencoder, "autoencoder")
    return {
        "in_channels": encoder.conv_in.in_channels,
        "out_channels": decoder.conv_out.out_channels,
        "block_out_channels": [level.block[-1].conv2.out_channels for level in encoder.down],
        "layers_per_block": len(encoder.down[0].block),
        "down_block_types": ["DownEncoderBlock2D"] * len(encoder.down),
        "up_block_types": ["UpDecoderBlock2D"] * len(encoder.down),
        "latent_channels": autoencoder.quant_conv.in_channels,
        "vq_embed_dim": autoencoder.quant_conv.out_channels,
        "num_vq_embeddings": quantize.embedding.num_embeddings,
        "sample_size": pixels,
        "mid_block_add_attention": isinstance(encoder.mid.attn_1, AttentionBlock),
        "scaling_factor": 1.0,
    }


def vq_weights(autoencoder: Autoencoder) -> dict[str, Tensor]:
    """The weights under the names of VQModel, where the attention's 1x1 convolutions are linear layers."""
    found = _renamed(autoencoder, _vq_names(autoencoder))
    attention = tuple(f"mid_block.attentions.0.{part}.weight" for part in ("to_q", "to_k", "to_v", "to_out.0"))
    return {
        name: rearrange(value, "o i 1 1 -> o i") if name.endswith(attention) else value for name, value in found.items()
    }


def _levels(unet: UNet) -> tuple[list[list[Any]], int]:
    """The input blocks of each level without downsampling, and their number per level."""
    levels: list[list[Any]] = [[]]
    stages: Any = unet.input_blocks[1:]
    for stage in stages:
        if isinstance(stage[0], Downsample):
            levels.append([])
        else:
            levels[-1].append(stage)
    return levels, len(levels[0])


def _of(stages: Iterable[Any], kind: type[nn.Module]) -> Iterator[Any]:
    return (module for stage in stages for module in stage if isinstance(module, kind))


def _check_groups(network: nn.Module, what: str) -> None:
    groups = {module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)}
    if groups != {GROUPS}:
        raise UserError(
            f"diffusers: the {what} has norms of {sorted(groups)} groups, expected {GROUPS} in all, as diffusers takes "
            "one number; export a network whose channels are multiples of 32"
        )


def _renamed(network: nn.Module, names: Renamed) -> dict[str, Tensor]:
    """The weights of `network` under their new names. KeyError for one without a new name (a bug here)."""
    prefixes = dict(names)
    found = {}
    for name, value in network.state_dict().items():
        prefix = next(prefix for prefix in _prefixes(name) if prefix in prefixes)
        found[prefixes[prefix] + name.removeprefix(prefix)] = value.contiguous()
    return found


def _prefixes(name: str) -> Iterator[str]:
    """a.b.c -> a.b.c, a.b, a"""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _unet_names(unet: UNet) -> Renamed:
    yield from {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}.items()
    yield from {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}.items()
    level, number = 0, 0
    stages: Any = unet.input_blocks[1:]
    for index, stage in enumerate(stages, start=1):
        if isinstance(stage[0], Downsample):
            yield f"input_blocks.{index}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            level, number = level + 1, 0
        else:
            yield from _stage_names(stage, f"input_blocks.{index}", f"down_blocks.{level}", number)
            number += 1
    for index, (kind, number) in enumerate((("resnets", 0), ("attentions", 0), ("resnets", 1))):
        new = f"mid_block.{kind}.{number}"
        yield from _block_names(f"middle_block.{index}", new) if kind == "resnets" else [(f"middle_block.{index}", new)]
    blocks = _levels(unet)[1] + 1
    for index, stage in enumerate(unet.output_blocks):
        yield from _stage_names(stage, f"output_blocks.{index}", f"up_blocks.{index // blocks}", index % blocks)


def _stage_names(stage: Any, old: str, new: str, number: int) -> Renamed:
    for index, layer in enumerate(stage):
        if isinstance(layer, ResBlock):
            yield from _block_names(f"{old}.{index}", f"{new}.resnets.{number}")
        elif isinstance(layer, SpatialTransformer):
            yield f"{old}.{index}", f"{new}.attentions.{number}"
        elif isinstance(layer, Upsample):
            yield f"{old}.{index}.conv", f"{new}.upsamplers.0.conv"


def _block_names(old: str, new: str) -> Renamed:
    for ours, theirs in RES_BLOCK.items():
        yield f"{old}.{ours}", f"{new}.{theirs}"


def _vq_names(autoencoder: Autoencoder) -> Renamed:
    yield from ((name, name) for name in ("quant_conv", "post_quant_conv", "quantize"))
    levels = len(autoencoder.encoder.down)
    for half, blocks in (("encoder", "down"), ("decoder", "up")):
        yield from ((f"{half}.{name}", f"{half}.{name}") for name in ("conv_in", "conv_out"))
        yield f"{half}.norm_out", f"{half}.conv_norm_out"
        for number in (0, 1):
            yield from _codec_names(f"{half}.mid.block_{number + 1}", f"{half}.mid_block.resnets.{number}")
        for ours, theirs in ATTENTION.items():
            yield f"{half}.mid.attn_1.{ours}", f"{half}.mid_block.attentions.0.{theirs}"
        for index, level in enumerate(getattr(autoencoder.get_submodule(half), blocks)):
            theirs = f"{half}.{blocks}_blocks.{index if blocks == 'down' else levels - 1 - index}"  # coarsest first
            yield f"{half}.{blocks}.{index}.{blocks}sample", f"{theirs}.{blocks}samplers.0"
            for number, block in enumerate(level.block):
                if isinstance(block, ResnetBlock):
                    yield from _codec_names(f"{half}.{blocks}.{index}.block.{number}", f"{theirs}.resnets.{number}")


def _codec_names(old: str, new: str) -> Renamed:
    for ours, theirs in CODEC_BLOCK.items():
        yield f"{old}.{ours}", f"{new}.{theirs}"
