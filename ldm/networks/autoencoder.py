"""Autoencoder: image x (b, 3, H, W) in [-1, 1] <-> latent z (b, 3, h, w), h = H/4, with a codebook in between.

The published one is VQ-f4, the first stage of latent diffusion (Rombach et al. 2022; paper, section 4.1.1). Latents are
not quantised, z = quant_conv(encoder(x)), until they are decoded.

The demo's variant works on patches of 2x2 pixels, normalises every pixel separately and has no attention. It uses no
statistics over space, so encoding a crop equals cropping the encoding, away from borders. It has no codebook: decoding
is continuous in the latent, so rounding differences stay small, where a codebook could switch to another code. It ends
in convolutions at full resolution, since a pixel shuffle alone leaves stripes with a period of `patch` pixels.
"""

import math
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.config.schema import Count, Counts
from ldm.errors import UserError
from ldm.layers.blocks import Upsample
from ldm.layers.codec import AttentionBlock, Head, Level, Middle, Norm, PaddedDownsample, ResnetBlock
from ldm.layers.norms import PixelNorm, group_norm
from ldm.networks.weights_id import weights_id

NORMS: dict[str, Norm] = {"group": partial(group_norm, eps=1e-6), "pixel": PixelNorm}
COMMITMENT = 0.25
BORDER = 1e-3
"""width of the transition of `Quantizer.continuous` between two codes, as a share of their distance"""
NEAR = 4
"""number of nearest codes that it uses"""
BLOCK = 2**23
"""latents times codes of which distances are in memory at once: 32 MB"""


class Encoder(nn.Module):
    """(b, channels, H, W) -> (b, out_channels, H/f, W/f); f doubles between levels."""

    def __init__(
        self, channels: int, widths: list[int], blocks: int, out_channels: int, norm: Norm, attention: bool
    ) -> None:
        """`widths`: channels after conv_in, then of each level, finest first."""
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Level(a, b, blocks, norm) for a, b in pairwise(widths))
        for level, width in zip(self.down[:-1], widths[1:-1], strict=True):
            level.downsample = PaddedDownsample(width)
        self.mid = Middle(widths[-1], norm, attention)
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """(b, channels, h, w) -> image (b, 3, f h, f w); the encoder's mirror with one more block a level."""

    def __init__(
        self,
        channels: int,
        widths: list[int],
        blocks: int,
        norm: Norm,
        attention: bool,
        patch: int = 1,
        head: int | None = None,
    ) -> None:
        """`widths`: channels of each level, finest first. `patch`: pixels a side unfolded from channels at the end.

        `head`: channels of the convolutions at full resolution that follow; None leaves them out.
        """
        super().__init__()
        self.patch = patch
        self.conv_in = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], norm, attention)
        before = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(Level(a, b, blocks + 1, norm) for a, b in zip(before, widths, strict=True))
        for level, width in zip(self.up[1:], widths[1:], strict=True):
            level.upsample = Upsample(width)
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3 * patch**2, 3, padding=1)
        self.head = None if head is None else Head(widths[0], head, patch)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        h = F.silu(self.norm_out(h))
        x = F.pixel_shuffle(self.conv_out(h), self.patch)
        return x if self.head is None else self.head(x, h)

    @property
    def last_layer(self) -> nn.Conv2d:
        """The last layer, whose gradient weighs the adversarial loss."""
        return self.conv_out if self.head is None else self.head.conv_out

    @property
    def local(self) -> bool:
        """Whether a pixel depends only on latents within `reach`: no norm over space, no attention."""
        return not any(isinstance(module, nn.GroupNorm | AttentionBlock) for module in self.modules())

    @property
    def reach(self) -> int:
        """Radius of the receptive field in latents: one per 3x3 convolution, halved by every upsampling."""
        cells = 1 + (0 if self.head is None else math.ceil(Head.REACH / self.patch))  # conv_out, and what follows it
        for level in self.up:  # from the pixels back to the latents
            if isinstance(level.upsample, Upsample):
                cells = math.ceil((cells + 1) / 2)
            cells += 2 * sum(isinstance(module, ResnetBlock) for module in level.modules())
        return cells + 2 * 2 + 1  # two blocks in the middle, conv_in


class Quantizer(nn.Module):
    """Codebook lookup (van den Oord et al. 2017), one sample at a time and in the codebook's own precision.

    Under autocast, wrong codes would be chosen. Distances are computed for BLOCK latents and codes at a time: all of a
    sample's would take 128 MB at full size.
    """

    def __init__(self, codes: int, code_dim: int, beta: float) -> None:
        """`beta` weighs the codes' distance to the latents in the loss, as published; the latents' has weight 1."""
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(codes, code_dim)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (b, c, h, w) -> (z_q (b, c, h, w) straight through, codebook loss, indices (b, h, w))."""
        z = z.to(self.embedding.weight.dtype)
        with torch.no_grad():
            flat = torch.stack([self._nearest(sample, 1)[:, 0] for sample in z])
        indices = rearrange(flat, "b (h w) -> b h w", h=z.shape[2])
        z_q = rearrange(self.embedding(indices), "b h w c -> b c h w")
        loss = F.mse_loss(z, z_q.detach()) + self.beta * F.mse_loss(z_q, z.detach())
        return z + (z_q - z).detach(), loss, indices

    def _nearest(self, z: Tensor, count: int) -> Tensor:
        """z (c, h, w) -> indices (h w, count) of the nearest codes, nearest first."""
        codes = self.embedding.weight
        squares, rows = codes.square().sum(1), max(1, BLOCK // len(codes))
        found = []
        with torch.autocast(z.device.type, enabled=False):
            for block in rearrange(z, "c h w -> (h w) c").split(rows):
                far = torch.addmm(squares, block, codes.T, alpha=-2)  # (n, k), short of |z|^2
                some = far.argmin(1, keepdim=True) if count == 1 else far.topk(count, largest=False).indices
                found.append(some)
        return torch.cat(found)

    @torch.no_grad()
    def continuous(self, z: Tensor) -> Tensor:
        """z (b, c, h, w) -> its nearest codes (b, c, h, w), interpolated for the few latents between two codes.

        Rounding decides which code a latent halfway between two codes gets, and its pixels change by up to a dozen
        levels. Here the transition is continuous over BORDER of the codes' distance, with

            weights  exp(-(d_i^2 - d_1^2) / (BORDER |c_i - c_1|^2)),   d_i the distance to code c_i, c_1 the nearest

        so that a rounding difference in z stays small in the image. About one latent in a hundred is interpolated.
        """
        codes = self.embedding.weight
        count = min(NEAR, len(codes))
        each = [
            self._mixed(rearrange(sample, "c h w -> (h w) c"), codes[self._nearest(sample, count)])
            for sample in z.to(codes.dtype)
        ]
        return rearrange(torch.stack(each), "b (h w) c -> b c h w", h=z.shape[2]).to(z.dtype)

    @staticmethod
    def _mixed(z: Tensor, near: Tensor) -> Tensor:
        """z (n, c), its nearest codes (n, NEAR, c) -> (n, c)."""
        squares = (near - z[:, None]).square().sum(2)  # from differences: precise, unlike the expansion
        least, first = squares.min(1, keepdim=True)
        apart = (near - near.gather(1, first[..., None].expand(-1, -1, near.shape[2]))).square().sum(2)
        weights = torch.exp(-(squares - least) / (BORDER * apart).clamp(min=torch.finfo(z.dtype).tiny))  # (n, NEAR)
        return (weights[..., None] * near).sum(1) / weights.sum(1, keepdim=True)


class Unquantised(nn.Module):
    """Replaces a codebook: the identity."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, None]:
        """z (b, c, h, w) -> (z, codebook loss 0, no indices)."""
        return z, z.new_zeros(()), None

    def continuous(self, z: Tensor) -> Tensor:
        """z as it is."""
        return z


class Autoencoder(nn.Module):
    """VQ autoencoder; the defaults are the published VQ-f4 (55,322,782 parameters)."""

    def __init__(
        self,
        *,
        width: Count = 128,
        multipliers: Counts = (1, 2, 4),
        blocks: Count = 2,
        latent_channels: Count = 3,
        codes: Count | None = 8192,
        code_dim: Count = 3,
        patch: Count = 1,
        norm: str = "group",
        attention: bool = True,
        head: Count | None = None,
    ) -> None:
        """`codes`: size of the codebook; None: no codebook, and quantisation is the identity.

        `patch`: pixels a side folded into channels before the encoder; the whole shrinks by patch * 2^(levels - 1).

        `norm`: "group" (published) or "pixel" (no statistics over space). `attention`: in the middle blocks.
        `head`: channels of the decoder's convolutions at full resolution, behind the unfolding of patches; None: none.
        Raises UserError for an unknown norm.
        """
        super().__init__()
        if norm not in NORMS:
            raise UserError(f"autoencoder: unknown norm {norm}; it is one of {', '.join(NORMS)}")
        self.patch = patch
        self.downsample = patch * 2 ** (len(multipliers) - 1)
        widths = [width * multiplier for multiplier in multipliers]
        self.encoder = Encoder(3 * patch**2, [width, *widths], blocks, latent_channels, NORMS[norm], attention)
        self.decoder = Decoder(latent_channels, widths, blocks, NORMS[norm], attention, patch, head)
        self.quantize: Quantizer | Unquantised = Unquantised()
        if codes is not None:
            self.quantize = Quantizer(codes, code_dim, COMMITMENT)
        self.quant_conv = nn.Conv2d(latent_channels, code_dim, 1)
        self.post_quant_conv = nn.Conv2d(code_dim, latent_channels, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Image (b, 3, H, W) in [-1, 1] -> unquantised latent (b, code_dim, h, w).

        Raises UserError when H or W is not a multiple of the downsampling.
        """
        if x.shape[-1] % self.downsample or x.shape[-2] % self.downsample:
            raise UserError(
                f"autoencoder: image of {x.shape[-1]}x{x.shape[-2]} px; "
                f"both sides must be multiples of {self.downsample}: crop or pad it"
            )
        return self.quant_conv(self.encoder(F.pixel_unshuffle(x, self.patch)))

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Latent (b, code_dim, h, w), moved to its nearest codes unless told otherwise, -> image, not clamped."""
        z = self.quantize(z)[0] if quantize else z
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Image -> (reconstruction (b, 3, H, W), codebook loss, code indices (b, h, w), None without a codebook)."""
        z_q, loss, indices = self.quantize(self.encode(x))
        return self.decode(z_q, quantize=False), loss, indices

    def bottlenecks(self) -> dict[str, list[Tensor]]:
        """Layers that all of an image, or of a latent, passes: `ldm.networks.trained`."""
        names = ("encoder.conv_in", "encoder.conv_out", "quant_conv", "post_quant_conv", "decoder.conv_in")
        last = ["decoder.conv_out"] if self.decoder.head is None else ["decoder.conv_out", "decoder.head.conv_out"]
        found: dict[str, list[Tensor]] = {name: [self.get_parameter(f"{name}.weight")] for name in names}
        found["decoder.conv_out"] = [self.get_parameter(f"{name}.weight") for name in last]
        if isinstance(self.quantize, Quantizer):
            found["quantize.embedding"] = [self.quantize.embedding.weight]
        return found

    def codes(self, z: Tensor) -> Tensor:
        """`Quantizer.continuous` of z (b, code_dim, h, w), for decode(..., quantize=False)."""
        return self.quantize.continuous(z)

    def latents_id(self) -> str:
        """Id (12 hex digits) of the encoding: of the encoder's weights in half precision, as bundled.

        It does not depend on the decoder or the codebook.
        """
        return weights_id(self.encoder, self.quant_conv)

    def decoder_id(self) -> str:
        """Id (12 hex digits) of the decoder, of its weights in half precision; without the codebook."""
        return weights_id(self.decoder, self.post_quant_conv)

    @torch.no_grad()
    def normalise_latents(self, mean: Tensor, std: Tensor) -> None:
        """Fold a shift and a scale, (code_dim,) each, into the weights: encode then gives (z - mean) / std.

        decode inverts it: images do not change without quantisation, and with it only if the `std` differ, which
        changes distances to the codes.
        """
        weight_in, bias_in = self.quant_conv.parameters()
        weight_in.div_(std[:, None, None, None])
        bias_in.sub_(mean).div_(std)
        if isinstance(self.quantize, Quantizer):
            self.quantize.embedding.weight.sub_(mean).div_(std)
        weight_out, bias_out = self.post_quant_conv.parameters()
        bias_out.add_(weight_out[:, :, 0, 0] @ mean)
        weight_out.mul_(std[:, None, None])
