"""Named random streams, and smooth random fields that do not depend on the voxel grid."""

import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from unpaired.phantom.level import Number

Key = tuple[int, str, int]  # seed, modality, subject

# Control points cover this much of the patient frame, mm (x, y, z); beyond, the last one holds.
EXTENT_MM = ((-240.0, 240.0), (-200.0, 200.0), (-170.0, 170.0))
# A cubic B-spline of unit normal coefficients has this spread, averaged over the cell (3 axes).
_UNIT = 0.4793650793650794**1.5


def stream(key: Key, *names: str | int) -> np.random.Generator:
    """The random stream of one component of one subject.

    Every component has its own, so that drawing more for one never moves another.
    """
    seed, modality, subject = key
    words = [seed, subject, zlib.crc32(modality.encode())]
    words += [zlib.crc32(str(name).encode()) for name in names]
    return np.random.default_rng(np.random.SeedSequence(words))


@dataclass(frozen=True)
class Smooth:
    """A cubic B-spline field over the patient frame.

    Attributes:
        coefficients: [z y x], one a knot.
        knot_mm: distance between knots.
    """

    coefficients: Float32[np.ndarray, "kz ky kx"]
    knot_mm: Number

    def on(
        self, z: Float[np.ndarray, " d"], y: Float[np.ndarray, " h"], x: Float[np.ndarray, " w"]
    ) -> Float32[np.ndarray, "d h w"]:
        """Values on the grid of three axes in mm: three small matrix products.

        In double precision, since the last bits of a product depend on the number of threads.
        """
        wz, wy, wx = (
            _weights(mm, EXTENT_MM[axis][0], self.knot_mm, size)
            for mm, axis, size in zip((z, y, x), (2, 1, 0), self.coefficients.shape, strict=True)
        )
        rows = np.tensordot(wz, self.coefficients.astype(np.float64), 1)
        return ((wy @ rows) @ wx.T).astype(np.float32)


def smooth(random: np.random.Generator, knot_mm: Number, std: Number) -> Smooth:
    """A random field with knots every `knot_mm` and standard deviation `std`."""
    shape = [int(np.ceil((high - low) / knot_mm)) + 4 for low, high in reversed(EXTENT_MM)]
    scale = np.float32(std / _UNIT)
    return Smooth(random.standard_normal(shape, dtype=np.float32) * scale, knot_mm)


def _weights(
    mm: Float[np.ndarray, " n"], start: float, knot_mm: Number, size: int
) -> Float[np.ndarray, "n k"]:
    position = np.clip((mm - start) / knot_mm, 0, size - 4 - 1e-6)
    first = position.astype(int)
    t = position - first
    four = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1
    )
    weights = np.zeros((len(mm), size))
    np.put_along_axis(weights, first[:, None] + np.arange(4), four / 6, 1)
    return weights
