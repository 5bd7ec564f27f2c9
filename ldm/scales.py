"""The ladder of scales, for histology and satellite images.

Scale k shows the base level shrunk by 2^k. A patch of scale k is `tile_px` wide, so it covers 2^k x 2^k base tiles; its
condition is the grid of their embeddings, averaged down to at most 8x8 (paper, section 3.1).

The satellite levels keep the published names: "3x" is the third level (4 m per pixel), not a factor of three.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ldm.errors import UserError

GRID_MAX = 8


@dataclass(frozen=True)
class Scale:
    """One scale: `index` 0 is the base; a pixel spans 2^index base pixels."""

    name: str
    index: int

    @property
    def downsample(self) -> int:
        """Base pixels per pixel, and base tiles per patch side."""
        return 2**self.index

    @property
    def grid(self) -> int:
        """Side of the embedding grid that describes a patch: its base tiles, at most 8."""
        return min(GRID_MAX, self.downsample)

    @property
    def pyramid_level(self) -> int:
        """Level of the embedding pyramid of which that grid is a window."""
        return max(0, self.index - GRID_MAX.bit_length() + 1)


@dataclass(frozen=True)
class Ladder:
    """The scales of one kind of image, finest first."""

    kind: str
    base_mpp: float
    """um (histology) or m (satellite) per base pixel"""
    unit: str
    scales: tuple[Scale, ...]

    def __iter__(self) -> Iterator[Scale]:
        return iter(self.scales)

    def __len__(self) -> int:
        return len(self.scales)

    @property
    def names(self) -> list[str]:
        return [scale.name for scale in self.scales]

    @property
    def fourfold(self) -> list[str]:
        """The finest scale and the one that shrinks it four times, or the next to it where there is none."""
        return list(dict.fromkeys([self.names[0], self.names[min(2, len(self) - 1)]]))

    def um(self, name: str) -> float:
        """um per pixel of a scale, also for satellite scenes, as slide viewers expect."""
        return self.base_mpp * self[name].downsample * _UM[self.unit]

    def __getitem__(self, name: str) -> Scale:
        for scale in self.scales:
            if scale.name == name:
                return scale
        raise UserError(f"scale: {name} is not on the {self.kind} ladder; it has {', '.join(self.names)}")


_UM = {"um": 1.0, "m": 1e6}
_NAMES = {
    "histology": (0.5, "um", ("20x", "10x", "5x", "2.5x", "1.25x", "0.625x", "0.3125x", "0.15625x")),
    "satellite": (1.0, "m", ("1x", "2x", "3x", "4x")),
}


def ladder(kind: str, count: int | None = None) -> Ladder:
    """The ladder of `kind` ("histology" or "satellite"), or its `count` finest scales.

    Raises UserError for an unknown kind or more scales than it has.
    """
    if kind not in _NAMES:
        raise UserError(f"ladder: unknown kind {kind}; it is one of {', '.join(_NAMES)}")
    base_mpp, unit, names = _NAMES[kind]
    count = len(names) if count is None else count
    if not 1 <= count <= len(names):
        raise UserError(f"ladder: {count} scales asked of {kind}; it has 1 to {len(names)}: {', '.join(names)}")
    return Ladder(kind, base_mpp, unit, tuple(Scale(name, index) for index, name in enumerate(names[:count])))
