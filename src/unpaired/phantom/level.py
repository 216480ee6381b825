"""How hard a phantom is: every knob, typed and documented."""

from dataclasses import dataclass

Number = float | int  # tables are easier to read with 1 than with 1.0


@dataclass(frozen=True)
class Level:
    """The knobs of one level of difficulty; 1 is the standard where no unit is given.

    Attributes:
        warp: size of the smooth deformation between subjects (about .4 mm a unit).
        surface_mm: roughness of organ surfaces.
        pose: tilt, rotation and place of organs and patient.
        spread: how much the organs' contrast varies between subjects.
        compression: 0..1, how far liver, spleen, kidney, gut wall and vessels approach each other.
        noise: scanner noise.
        bias: shading of the coil (MR).
        ghost: largest weight of the motion ghost (MR).
        fat_failure: 0..1, how much fat escapes suppression (MR).
        bowel: mean number of small bowel loops.
        lesions: factor on the numbers of tumours and cysts.
    """

    warp: Number
    surface_mm: Number
    pose: Number
    spread: Number
    compression: Number
    noise: Number
    bias: Number
    ghost: Number
    fat_failure: Number
    bowel: Number
    lesions: Number


LEVELS: dict[str, Level] = {
    "easy": Level(4, 1, 0.5, 0.5, 0, 0.6, 0.15, 0.02, 0, 8, 0.5),
    "std": Level(8, 2, 1, 1, 0, 1, 0.5, 0.05, 0.3, 22, 1),
    # Of the experiments: between standard and hard.
    "benchmark": Level(9, 2.5, 1.2, 1.2, 0.2, 1.3, 0.55, 0.065, 0.4, 26, 1.3),
    # Geometry is held back: a stronger warp gives absurd kidneys.
    "hard": Level(9, 2.5, 1.5, 1.4, 0.35, 1.6, 0.6, 0.09, 0.6, 30, 1.6),
}
