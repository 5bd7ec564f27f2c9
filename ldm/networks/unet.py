"""U-Net denoiser: z_t (b, 3, h, w), t (b,), context (b, m, context_dim) -> (b, 3, h, w).

The published one is the ImageNet LDM-4 of Rombach et al. 2022 (paper, section 4.1.1): 192 channels times 1, 2, 3, 5,
two residual blocks a level, attention at half, a quarter and an eighth of the latent's size, one head. The
output of every input block is concatenated to the input of the corresponding output block (skip connections).
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.config.schema import Count, Counts
from ldm.errors import UserError
from ldm.layers.attention import SpatialTransformer
from ldm.layers.blocks import Downsample, ResBlock, Upsample
from ldm.layers.embeddings import timestep_embedding
from ldm.layers.init import zeroed
from ldm.layers.norms import group_norm

GRID = 8
"""side of the map of a context's 64 grid tokens"""


class Stage(nn.ModuleList):
    """A sequence of layers; residual blocks are given the time embedding, transformers the context."""

    def forward(self, h: Tensor, time: Tensor, context: Tensor) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                h = layer(h, time)
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, context)
            else:
                h = layer(h)
        return h


class UNet(nn.Module):
    """The denoiser; the defaults are the published network (400,920,579 parameters)."""

    checkpointing = False
    """whether blocks keep their inputs alone for the backward pass, and are computed again in it (Chen et al. 2016)"""

    def __init__(
        self,
        *,
        in_channels: Count = 3,
        out_channels: Count = 3,
        width: Count = 192,
        multipliers: Counts = (1, 2, 3, 5),
        blocks: Count = 2,
        attention: Sequence[Count] = (2, 4, 8),
        heads: Count = 1,
        context_dim: Count = 512,
        shortcuts: bool = False,
    ) -> None:
        """`attention`: downsampling factors whose blocks have attention; the middle always has.

        `shortcuts`: for small training sets; not in the published network. The mean of the context's tokens is added to
        the time embedding, and its 64 grid tokens, as an 8x8 map enlarged to the latent's size, to the first
        convolution; use it with Summarizer(stretch=True). Both are linear without bias: a null context adds 0.
        Raises UserError for heads that do not divide the channels, or an attention factor of no level.
        """
        super().__init__()
        factors = [2**level for level in range(len(multipliers))]
        if unknown := [factor for factor in attention if factor not in factors]:
            raise UserError(f"unet: attention at {unknown} found, expected factors of its levels, out of {factors}")
        attended = [width * multipliers[factors.index(factor)] for factor in attention] + [width * multipliers[-1]]
        if wrong := [channels for channels in attended if channels % heads]:
            raise UserError(f"unet: {heads} heads found for {wrong[0]} channels, expected a divisor of the channels")
        self.width, self.context_dim, self.coarsest = width, context_dim, factors[-1]
        time_dim = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.context_embed = nn.Linear(context_dim, time_dim, bias=False) if shortcuts else None
        self.context_map = nn.Linear(context_dim, width, bias=False) if shortcuts else None

        def block(channels: int, out: int, level: int) -> list[nn.Module]:
            transformer = [SpatialTransformer(out, context_dim, heads)] if 2**level in attention else []
            return [ResBlock(channels, out, time_dim), *transformer]

        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(in_channels, width, 3, padding=1)])])
        channels, kept = width, [width]
        for level, multiplier in enumerate(multipliers):
            if level:
                self.input_blocks.append(Stage([Downsample(channels)]))
                kept.append(channels)
            for _ in range(blocks):
                self.input_blocks.append(Stage(block(channels, width * multiplier, level)))
                channels = width * multiplier
                kept.append(channels)
        self.encoded = (*kept, channels)
        """channels of the outputs of `encode`"""

        self.middle_block = Stage(
            [
                ResBlock(channels, channels, time_dim),
                SpatialTransformer(channels, context_dim, heads),
                ResBlock(channels, channels, time_dim),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for number in range(blocks + 1):
                layers = block(channels + kept.pop(), width * multiplier, level)
                channels = width * multiplier
                last = level > 0 and number == blocks
                self.output_blocks.append(Stage([*layers, Upsample(channels)] if last else layers))

        head = zeroed(nn.Conv2d(channels, out_channels, 3, padding=1))
        self.out = nn.Sequential(group_norm(channels, eps=1e-5), nn.SiLU(), head)

    def forward(self, z_t: Tensor, t: Tensor, context: Tensor, control: Sequence[Tensor] | None = None) -> Tensor:
        """The network's output (b, out_channels, h, w): eps, v or z_0, depending on the training.

        `control` is added to the outputs of `encode` (Zhang et al. 2023).
        """
        for h in self.features(z_t, t, context, control):
            last = h
        return self.out(last)

    def bottlenecks(self) -> dict[str, list[Tensor]]:
        """Layers that all of z_t passes: `ldm.networks.trained`."""
        names = ("input_blocks.0.0", "out.0", "out.2")
        return {name: [self.get_parameter(f"{name}.weight")] for name in names}

    def embed(self, z_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The embedding that every residual block is given, (b, 4 width)."""
        time = self.time_embed(timestep_embedding(t, self.width).to(z_t.dtype))
        return time if self.context_embed is None else time + self.context_embed(context.mean(1))

    def encode(self, z_t: Tensor, time: Tensor, context: Tensor, hint: Tensor | None = None) -> list[Tensor]:
        """Outputs of every input block, then of the middle; `hint` (b, width, h, w) is added to the first one."""
        h, results = z_t, []
        for number, stage in enumerate(self.input_blocks):
            h = self._run(stage, h, time, context)
            if number == 0 and self.context_map is not None:
                grid = rearrange(self.context_map(context[:, 1:]), "b (gh gw) c -> b c gh gw", gh=GRID)
                h = h + F.interpolate(grid, h.shape[-2:], mode="bilinear")
            if number == 0 and hint is not None:
                h = h + hint
            results.append(h)
        return [*results, self._run(self.middle_block, h, time, context)]

    def _run(self, stage: nn.Module, h: Tensor, time: Tensor, context: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, h, time, context, use_reentrant=False, preserve_rng_state=False)
        return stage(h, time, context)

    def features(
        self, z_t: Tensor, t: Tensor, context: Tensor, control: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Yield the outputs of the middle and of every output block, coarsest first, each (b, c, h', w').

        Blocks after the last one that is consumed are not run.
        """
        time = self.embed(z_t, t, context)
        kept = self.encode(z_t, time, context)
        if control is not None:
            kept = [result + more for result, more in zip(kept, control, strict=True)]
        h = kept.pop()
        yield h
        for stage in self.output_blocks:
            h = self._run(stage, torch.cat([h, kept.pop()], dim=1), time, context)
            yield h
