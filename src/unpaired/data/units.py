"""Which modality an image may be of, by its intensities: Hounsfield units, or where zero lies.

Units of MR differ from scan to scan, so nothing is said of two MR sequences: what tells modalities
apart is where zero lies between the darkest and the brightest voxels, whatever their scale: at the
dark end of a magnitude image, inside of a CT's range, where it is water.
"""

from collections.abc import Sequence

import numpy as np

from unpaired.data.plan import Levels, ModalityPlan, Plan
from unpaired.io.volume import Volume

_SAMPLE = 1 << 20
_TINY = 0.005
_ENDS = (0.5, 99.5)
# Zero up to here is the dark end of an image, of all training images; from here it lies inside.
_END, _ENDS_OF_ALL, _INSIDE = 0.03, 0.1, 0.2


def doubt(volumes: Sequence[Volume], modality: str, plan: Plan) -> str:
    """A sentence, where an image does not look like the modality it is taken for; else nothing.

    Args:
        volumes: one a channel.
    """
    part = plan.modalities[modality]
    ends = [value_range(volume.measured) for volume in volumes]
    kinds = [_kind(zero_place(own), zero_place(own), _END) for own in ends]
    others = {
        name: other
        for name, other in plan.modalities.items()
        if name != modality and len(other.channel_names) == len(volumes)
    }
    fitting = [name for name, other in others.items() if kinds == _kinds(other)]
    trained = _kinds(part)
    if fitting and any({a, b} == {"end", "inside"} for a, b in zip(kinds, trained, strict=False)):
        return _sentence(ends, modality, part, fitting[0])
    if any(map(is_quantitative, part.channel_names)):
        return _no_hounsfield(volumes, ends, modality, part, others)
    named_ct = next((m for m, o in others.items() if is_quantitative(o.channel_names[0])), None)
    if "inside" in trained or not _hounsfield(volumes[0], kinds[0], bool(trained), named_ct):
        return ""
    return _sentence(ends, modality, part, named_ct)


def levels(ranges: Sequence[Sequence[Sequence[float]] | None]) -> tuple[Levels, ...]:
    """What training images reach, channel by channel; empty where it is not known.

    Args:
        ranges: per image the `value_range` of each channel; None: prepared before it was kept.
    """
    known = np.array([one for one in ranges if one is not None], float)  # [case channel end]
    if not known.size:
        return ()
    found = []
    for low, high in known.transpose(1, 2, 0):
        zero = [zero_place((a, b)) for a, b in zip(low, high, strict=True)]
        found.append(Levels(low=_ends(low), high=_ends(high), zero=_ends(zero)))
    return tuple(found)


def value_range(array: np.ndarray) -> tuple[float, float]:
    """Where the darkest and the brightest voxels lie, strays left out."""
    if not array.size:  # all of it is padding
        return 0.0, 0.0
    low, high = np.percentile(sample(array), _ENDS)
    return float(low), float(high)


def zero_place(ends: Sequence[float]) -> float:
    """Where zero lies between these ends: 0 at the lower, 1 at the upper."""
    low, high = ends
    return float(-low / (high - low)) if high > low else 0.0


def is_quantitative(channel: str) -> bool:
    """Whether the channel's name promises Hounsfield units, which mean the same in every scan."""
    return channel.strip().casefold() == "ct"


def sample(array: np.ndarray) -> np.ndarray:
    """Up to about a million voxels, evenly spaced, float32 [n]."""
    step = max(1, round((array.size / _SAMPLE) ** (1 / array.ndim)))
    return array[(slice(None, None, step),) * array.ndim].astype(np.float32).ravel()


def not_hounsfield(values: np.ndarray, low: float, high: float) -> str:
    """Why these are no Hounsfield units, or nothing.

    Air is -1000, fat -100, soft tissue 0 to 100, metal a few thousand.
    """
    cold = _share(values, -np.inf, -50.0)
    if cold < _TINY:
        text = f"only {100 * cold:.2g} % of the voxels are below -50 (lowest {low:g})"
        if _share(values, 850.0, 1200.0) > 0.5 * _share(values, 200.0, np.inf) > 0.05:
            return f"{text} and most are near 1024, as if the intercept (-1024) was forgotten"
        return f"{text}, so there is neither air nor fat, as in an MR"
    if high < 50:
        return f"no value is above {high:g}, so there is no soft tissue"
    bulk = float(np.percentile(values, 99))
    if bulk > 5000:
        return f"1 % of the values are above {bulk:g}"
    return _air_elsewhere(values)


def looks_hounsfield(values: np.ndarray) -> bool:
    """Air near -1000 and soft tissue near 0: a CT, whatever its name."""
    return _share(values, -1060.0, -940.0) > 0.1 and _share(values, -150.0, 150.0) > 0.1


def _air_elsewhere(values: np.ndarray) -> str:
    """A sharp peak of cold voxels that is neither air, nor lung, nor one padding value."""
    cold = values[(values < -300) & (values > -3500)]
    if len(cold) < 0.05 * len(values):
        return ""
    kinds, counts = np.unique(np.rint(cold), return_counts=True)
    padding = kinds[counts > 0.9 * len(cold)]
    if len(padding):
        at, share = float(padding[0]), 1.0
        if at < -1000:  # outside the scanner's circle, or clipped
            return ""
    else:
        bins, edges = np.histogram(cold, bins=64, range=(-3500, -300))
        at = float(edges[bins.argmax()] + 25)
        share = bins.max() / len(cold)
    if share < 0.25 or at <= -700:
        return ""
    return f"air lies near {at:.0f}, expected near -1000"


def _share(values: np.ndarray, low: float, high: float) -> float:
    return float(((values >= low) & (values < high)).mean())


def _kind(least: float, most: float, end: float) -> str:
    """Where zero lies: "end", the dark one, "inside", or between them, which says nothing: ""."""
    if most <= end:
        return "end"
    return "inside" if least >= _INSIDE else ""


def _kinds(part: ModalityPlan) -> list[str]:
    """Of every channel in training; empty where it is not known."""
    return [_kind(*level.zero, _ENDS_OF_ALL) for level in part.levels]


def _no_hounsfield(
    volumes: Sequence[Volume],
    ends: Sequence[Sequence[float]],
    modality: str,
    part: ModalityPlan,
    others: dict[str, ModalityPlan],
) -> str:
    """Of an image that should be in Hounsfield units: a sentence where it is not, for a model that
    does not say what it was trained on, or knows nothing else."""
    if part.levels and others:
        return ""
    for k, (volume, name) in enumerate(zip(volumes, part.channel_names, strict=True)):
        if not is_quantitative(name):
            continue
        if part.levels and (ends[k][0] < 0 or part.levels[k].zero[0] < _INSIDE):
            continue
        low, high = float(volume.measured.min()), float(volume.measured.max())
        if not_hounsfield(sample(volume.measured), low, high):
            plain = [m for m, o in others.items() if not any(map(is_quantitative, o.channel_names))]
            return _sentence(ends, modality, part, plain[0] if len(plain) == 1 else None)
    return ""


def _hounsfield(volume: Volume, kind: str, known: bool, named_ct: str | None) -> bool:
    """Whether an image seems to be in Hounsfield units; one without air only where the model knows
    CT, and does not say what its images reached."""
    values = sample(volume.measured)
    if looks_hounsfield(values):
        return True
    if known or named_ct is None or kind != "inside":
        return False
    return not not_hounsfield(values, float(volume.measured.min()), float(volume.measured.max()))


def _sentence(
    ends: Sequence[Sequence[float]], modality: str, part: ModalityPlan, better: str | None
) -> str:
    low, high = ends[0]
    seen = ""
    if part.levels:
        level = part.levels[0]
        seen = f", those of {modality} in training from {level.low[0]:.4g} to {level.high[1]:.4g}"
    fits = "no modality of this model fits it better"
    if better is not None:
        fits = f"{better} fits it better, see --modality"
    return (
        f"the image does not look like {modality}, as which it was predicted: its values run from "
        f"{low:.4g} to {high:.4g}{seen}; {fits}"
    )


def _ends(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    return float(f"{min(values):.6g}"), float(f"{max(values):.6g}")
