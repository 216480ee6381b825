"""A ring of slices: the only scores a sliding window holds, however long the scan is."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from unpaired.engine.tiling import Corner, Tiling

EXACT_BYTES = 512 << 20
"""A ring that would be larger in float32 is kept in float16 (decision D66)."""


class Ring:
    """Sums of weighted patches for the slices that a patch can still reach.

    Patches come slab by slab along the first axis; a slice is whole once no further slab reaches
    it, and its place is used again.
    """

    def __init__(self, tiling: Tiling, classes: int, device: torch.device) -> None:
        self.tiling = tiling
        depth, (_, h, w) = tiling.patch[0], tiling.padded
        exact = 4 * depth * classes * h * w <= EXACT_BYTES
        kind = torch.float32 if exact else torch.float16
        self._sums = torch.zeros(depth, classes, h, w, dtype=kind, device=device)

    def add(self, corner: Corner, scores: Float[Tensor, "Z D h w"]) -> None:
        """Add one patch's scores."""
        z, y, x = self.tiling.origin(corner)
        _, h, w = self.tiling.patch
        weight = self.tiling.weight(corner).to(scores)
        for i, share in enumerate(weight):  # slice by slice: no second patch in memory
            sums = self._sums[(z + i) % len(self._sums), :, y : y + h, x : x + w]
            sums += scores[:, i] * share

    def whole(self, slab: int) -> Iterator[tuple[int, Float[Tensor, "1 Z h w"]]]:
        """After the last patch of a slab: the slices that are whole, with their index."""
        starts = self.tiling.starts[0]
        following = starts[slab + 1] if slab + 1 < len(starts) else self.tiling.padded[0]
        before, top, left = self.tiling.before
        d, h, w = self.tiling.size
        for z in range(starts[slab], following):
            sums = self._sums[z % len(self._sums)]
            if before <= z < before + d:
                inside = sums[None, :, top : top + h, left : left + w]
                yield z - before, inside.float() if sums.dtype == torch.half else inside.clone()
            sums.zero_()
