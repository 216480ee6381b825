"""What each tissue looks like in each contrast. A further contrast is one more table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from unpaired.phantom.field import Key, stream
from unpaired.phantom.level import Level, Number

PULLED = ("liver", "spleen", "cortex", "medulla", "gut", "vein", "artery")
Range = tuple[Number, Number, Number]  # weight, low, high


@dataclass(frozen=True)
class Tissue:
    """One tissue's value in one subject: N(mean, sd) + enhancement * N(gain, gain_sd).

    Attributes:
        texture: factor on the contrast's texture.
        fat: fraction of fat (fails to be suppressed, carries vessel strands).
        sometimes: with that probability, a draw between low and high is added.
    """

    mean: Number
    sd: Number = 0.0
    gain: Number = 0.0
    gain_sd: Number = 0.0
    texture: Number = 1.0
    fat: Number = 0.0
    sometimes: Range = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Contrast:
    """A modality's look.

    Attributes:
        air: value outside the patient, and of the pad.
        texture: standard deviation of tissue texture.
        enhancement: range of the subject's contrast agent.
        strands: added at full strength where vessels run through fat.
        contents: of stomach and bowel, ranges with weights.
        lesions: difference of a tumour to the liver, ranges with weights.
        unsuppressed: added to fat where its suppression fails; 0 where nothing is suppressed.
    """

    air: Number
    texture: Number
    enhancement: tuple[Number, Number]
    strands: Number
    contents: tuple[Range, ...]
    lesions: tuple[Range, ...]
    unsuppressed: Number = 0.0
    tissues: Mapping[str, Tissue] = field(default_factory=dict)


# Hounsfield units.
CT = Contrast(
    air=-1000,
    texture=6,
    enhancement=(0.40, 1.15),
    strands=75,
    contents=((0.28, 100, 300), (0.52, -2, 38), (0.20, -40, 60)),
    lesions=((0.75, -55, -21), (0.25, 18, 38)),
    tissues={
        "skin": Tissue(30, 10),
        "muscle": Tissue(55, 5, 8),
        "fat": Tissue(-100, 7, texture=1.3, fat=1),
        "liver": Tissue(55, 6, 52, 10, sometimes=(0.25, -28, -8)),
        "spleen": Tissue(48, 4, 65, 9),
        "cortex": Tissue(33, 3, 135, 20),
        "medulla": Tissue(31, 3, 95, 25),
        "pelvis": Tissue(5, 6, 30, 30),
        "pancreas": Tissue(42, 5, 50, 10, texture=2),
        "artery": Tissue(42, 4, 110, 18),
        "cava": Tissue(42, 4, 90, 18),
        "vein": Tissue(42, 4, 82, 10),
        "marrow": Tissue(190, 45, texture=4),
        "bone": Tissue(550, 80, texture=2),
        "disc": Tissue(85, 8),
        "canal": Tissue(25, 5),
        "cord": Tissue(40, 3),
        "gallbladder": Tissue(12, 5),
        "cyst": Tissue(8, 5),
        "lung": Tissue(-830, 30, texture=5),
        "heart": Tissue(42, 4, 90, 10),
        "gut": Tissue(45, 5, 38, 6),
        "air": Tissue(-1000, texture=0),
    },
)

# T2-weighted with fat suppression: relative signal.
T2 = Contrast(
    air=0,
    texture=0.035,
    enhancement=(0, 0),
    strands=0.14,
    contents=((0.55, 0.7, 1.2), (0.45, 0.25, 0.55)),
    lesions=((1.0, 0.1, 0.3),),
    unsuppressed=0.47,
    tissues={
        "skin": Tissue(0.25, 0.04),
        "muscle": Tissue(0.20, 0.025),
        "fat": Tissue(0.13, 0.03, texture=0.5, fat=1),
        "liver": Tissue(0.30, 0.045),
        "spleen": Tissue(0.60, 0.09),
        "cortex": Tissue(0.64, 0.09),
        "medulla": Tissue(0.76, 0.10),
        "pelvis": Tissue(1.05, 0.15),
        "pancreas": Tissue(0.42, 0.05, texture=2),
        "artery": Tissue(0.08, 0.03),
        "cava": Tissue(0.25, 0.10),
        "vein": Tissue(0.14, 0.02, sometimes=(0.4, 0.28, 0.34)),
        "marrow": Tissue(0.24, 0.03, texture=1.5),
        "bone": Tissue(0.04),
        "disc": Tissue(0.28, 0.08),
        "canal": Tissue(1.15, 0.08),
        "cord": Tissue(0.45, 0.05),
        "gallbladder": Tissue(1.1, 0.15),
        "cyst": Tissue(1.15, 0.10),
        "lung": Tissue(0.04, 0.01, texture=0.5),
        "heart": Tissue(0.30, 0.05, texture=1.5),
        "gut": Tissue(0.40, 0.05),
        "air": Tissue(0.01, texture=0),
    },
)

# T1-weighted gradient echo without suppression: bright fat, dark fluid, liver above spleen.
T1 = Contrast(
    air=0,
    texture=0.03,
    enhancement=(0, 0),
    strands=-0.35,
    contents=((0.6, 0.1, 0.3), (0.4, 0.3, 0.7)),
    lesions=((1.0, -0.25, -0.1),),
    tissues={
        "skin": Tissue(0.45, 0.05),
        "muscle": Tissue(0.38, 0.03),
        "fat": Tissue(0.95, 0.05, texture=1.5, fat=1),
        "liver": Tissue(0.60, 0.06),
        "spleen": Tissue(0.40, 0.05),
        "cortex": Tissue(0.50, 0.05),
        "medulla": Tissue(0.38, 0.05),
        "pelvis": Tissue(0.15, 0.05),
        "pancreas": Tissue(0.62, 0.06, texture=2),
        "artery": Tissue(0.30, 0.15),
        "cava": Tissue(0.35, 0.12),
        "vein": Tissue(0.35, 0.06),
        "marrow": Tissue(0.60, 0.08, texture=1.5),
        "bone": Tissue(0.05),
        "disc": Tissue(0.35, 0.05),
        "canal": Tissue(0.15, 0.04),
        "cord": Tissue(0.45, 0.04),
        "gallbladder": Tissue(0.20, 0.10, sometimes=(0.3, 0.2, 0.5)),
        "cyst": Tissue(0.12, 0.04),
        "lung": Tissue(0.04, 0.01, texture=0.5),
        "heart": Tissue(0.40, 0.05, texture=1.5),
        "gut": Tissue(0.42, 0.05),
        "air": Tissue(0.01, texture=0),
    },
)


class Values:
    """One subject's tissue values, each from its own stream, drawn when first asked for."""

    def __init__(self, contrast: Contrast, level: Level, key: Key) -> None:
        self._contrast, self._level, self._key = contrast, level, key
        self._enhancement = stream(key, "enhancement").uniform(*contrast.enhancement)
        self._pull = float(np.mean([self._own(name) for name in PULLED]))

    def of(self, tissue: str, number: int = 0) -> float:
        """The value of `tissue`; `number` tells apart contents and lesions."""
        if tissue == "content":
            return _ranged(self._contrast.contents, stream(self._key, "content", number))
        if tissue == "lesion":
            offset = _ranged(self._contrast.lesions, stream(self._key, "lesion", number))
            return self.of("liver") + offset
        value = self._own(tissue)
        if tissue in PULLED:
            value += self._level.compression * (self._pull - value)
        return float(max(value, self._contrast.air))

    def texture(self, tissue: str) -> float:
        """Standard deviation of the tissue's texture."""
        known = self._contrast.tissues.get(tissue)
        return float(self._contrast.texture * (1 if known is None else known.texture))

    def fat(self, tissue: str) -> float:
        """Fraction of fat."""
        known = self._contrast.tissues.get(tissue)
        return 0.0 if known is None else float(known.fat)

    def _own(self, name: str) -> float:
        tissue, spread = self._contrast.tissues[name], self._level.spread
        random = stream(self._key, "tissue", name)
        base, gain = random.standard_normal(2)
        value = tissue.mean + spread * tissue.sd * base
        value += self._enhancement * (tissue.gain + spread * tissue.gain_sd * gain)
        probability, low, high = tissue.sometimes
        happens, amount = random.random(), random.uniform(low, high)
        return float(value + amount if happens < probability else value)


def _ranged(ranges: tuple[Range, ...], random: np.random.Generator) -> float:
    weights = np.array([weight for weight, _, _ in ranges])
    pick = int(random.choice(len(ranges), p=weights / weights.sum()))
    return float(random.uniform(ranges[pick][1], ranges[pick][2]))
