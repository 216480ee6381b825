"""Images in another style: the same anatomy with other intensities, drawn sample by sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from unpaired.data.cache import PreparedCase
from unpaired.data.sampling import Batch, modality_key
from unpaired.datasets.dataset import IGNORED

LAYERS, HIDDEN = 4, 2
# Random streams beside those of the sampler and of `augment`.
GIN, VIEW = 4, 5
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_SLICES = 8
"""Of each class and case, for its mean and deviation."""
MOST_STRETCH = 10.0
"""By which a class's contrast is changed at most, either way."""
Style = Float[np.ndarray, "channels classes 2"]
"""Per channel mean and deviation of every class of a case, and last of its whole slices."""
Keys = Sequence[Sequence[int]]
"""The seed of each sample's draws."""


def random_network(image: Float[Tensor, "B K *space"], keys: Keys) -> Float[Tensor, "B K *space"]:
    """Each sample through a random shallow network of its own (GIN, Ouyang et al., IEEE TMI 2023).

    Four convolutions of kernel 1 or 3 with weights and shifts drawn from N(0, 1), two channels
    between them, leaky ReLU; mixed with the image by a share drawn from [0, 1], and brought back to
    the image's norm. All channels of a sample go through one network. Borders are repeated.
    """
    batch, axes = len(image), image.ndim - 2
    draws = [np.random.default_rng(key) for key in keys]
    share = image.new_tensor([rng.random() for rng in draws]).reshape(-1, *[1] * (axes + 1))
    x = image.transpose(0, 1)  # samples are groups of channels, and their channels the batch
    for layer in range(LAYERS):
        before, after = (1 if layer == 0 else HIDDEN), (1 if layer == LAYERS - 1 else HIDDEN)
        drawn = [_layer(rng, before, after, axes) for rng in draws]
        weight = torch.from_numpy(np.concatenate([w for w, _ in drawn])).to(image)
        shift = torch.from_numpy(np.concatenate([b for _, b in drawn])).to(image)
        padded = F.pad(x, [1] * (2 * axes), mode="replicate")
        x = _CONV[axes](padded, weight, shift, groups=batch)
        if layer < LAYERS - 1:
            x = F.leaky_relu(x)
    mixed = share * x.transpose(0, 1) + (1 - share) * image
    norms = [y.flatten(1).norm(dim=1).reshape(share.shape) for y in (image, mixed)]
    return mixed * (norms[0] / norms[1].clamp_min(1e-6))


def _layer(
    rng: np.random.Generator, before: int, after: int, axes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [after before 3...] and shifts [after]; of a kernel of 1 only the middle is not 0."""
    size = (1, 3)[int(rng.integers(2))]
    weight = np.zeros((after, before, *[3] * axes), np.float32)
    inside = slice(1, 2) if size == 1 else slice(None)
    weight[(slice(None), slice(None), *[inside] * axes)] = rng.standard_normal(
        (after, before, *[size] * axes)
    )
    return weight, rng.standard_normal(after).astype(np.float32)


def change_some(
    image: Float[Tensor, "B K *space"], probability: float, keys: Keys
) -> Float[Tensor, "B K *space"]:
    """A random network for each sample with this probability; the others are not touched."""
    rows = [i for i, key in enumerate(keys) if np.random.default_rng(key).random() < probability]
    if not rows:
        return image
    image = image.clone()
    image[rows] = random_network(image[rows], [[*keys[i], 1] for i in rows])
    return image


# In the style of another case: mean and deviation class by class.


def case_styles(cases: Sequence[PreparedCase], classes: int) -> dict[str, Style]:
    """Mean and deviation of the classes of each case, by its id; nan for a class it lacks.

    Read from up to eight slices a class, evenly spaced among those that hold it.
    """
    return {case.id: _style(case, classes) for case in cases}


def _style(case: PreparedCase, classes: int) -> Style:
    labels, stored = case.label(), case.image()
    assert labels is not None
    chosen = {
        int(indices[i])
        for indices in case.slices.values()
        for i in np.linspace(0, len(indices) - 1, min(_SLICES, len(indices))).round().astype(int)
    }
    slices = sorted(chosen) or [case.shape[0] // 2]
    label = labels[slices].ravel().astype(np.int64)
    label[label == IGNORED] = classes
    rows = []
    for k in range(len(stored)):
        x = case.intensities(stored[k][slices], k).ravel().astype(np.float64)
        own = [x[label == z] for z in range(classes)]
        rows.append([(y.mean(), y.std()) if len(y) else (np.nan, np.nan) for y in (*own, x)])
    return np.array(rows, np.float64)


def restyle(
    batch: Batch, own: Mapping[str, Style], others: Mapping[str, Style], keys: Keys
) -> Float[Tensor, "B K *space"]:
    """The batch's images with the classes' means and deviations of cases drawn from `others`.

    x -> (x - m) s' / s + m' with (m, s) of the class in the sample's own case and (m', s') in the
    drawn one; where one of them lacks the class, and where nobody annotated, those of the whole
    slices. The label is that of the middle slice, for its neighbours too. Factor and shift are
    averaged over neighbouring voxels, so that no edge is drawn along the label.

    Args:
        own: styles by case of the batch's modality.
    """
    names = sorted(others)
    factors: list[Tensor] = []
    shifts: list[Tensor] = []
    for label, case, key in zip(batch.label, batch.case, keys, strict=True):
        drawn = names[int(np.random.default_rng(key).integers(len(names)))]
        factor, shift = _affine(own[case], others[drawn])
        index = torch.where(label < 0, factor.shape[1] - 1, label)
        for table, maps in ((factor, factors), (shift, shifts)):
            maps.append(torch.from_numpy(table).to(batch.image)[:, index])
    context = batch.image.shape[1] // len(factors[0])  # channel-major: neighbours side by side
    scale, offset = (
        _smooth(torch.stack(maps)).repeat_interleave(context, 1) for maps in (factors, shifts)
    )
    return batch.image * scale + offset


def _affine(own: Style, target: Style) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift per channel and class."""
    lacking = (np.isnan(own) | np.isnan(target)).any(-1)[..., None]
    a, b = (np.where(lacking, x[:, -1:], x) for x in (own, target))
    factor = b[..., 1] / np.maximum(a[..., 1], 1e-3)
    factor = factor.clip(1 / MOST_STRETCH, MOST_STRETCH)
    return factor, b[..., 0] - factor * a[..., 0]


def _smooth(x: Float[Tensor, "B K *space"]) -> Float[Tensor, "B K *space"]:
    """Mean over three voxels along each axis, the edges repeated."""
    for axis in range(2, x.ndim):
        index = torch.arange(x.shape[axis], device=x.device)
        near = [x.index_select(axis, (index + i).clamp(0, len(index) - 1)) for i in (-1, 0, 1)]
        x = (near[0] + near[1] + near[2]) / 3
    return x


@dataclass(frozen=True)
class SecondViews:
    """Makes the images of a step once more, in another style.

    Attributes:
        kind: "gin" (`random_network`), or "classes" (`restyle`).
        seed: of the random numbers.
        styles: of "classes", by modality and case.
    """

    kind: str
    seed: int
    styles: Mapping[str, Mapping[str, Style]]

    def image(self, batch: Batch, modality: str, other: str) -> Float[Tensor, "B K *space"]:
        """The batch's images as they are seen through the other modality's stem."""
        keys = [[self.seed, modality_key(modality), VIEW, p] for p in batch.position.tolist()]
        if self.kind == "gin":
            return random_network(batch.image, keys)
        return restyle(batch, self.styles[modality], self.styles[other], keys)


def seen_as(modalities: Sequence[str], step: int) -> dict[str, str]:
    """As which modality the second views of each are seen: in turn as every other; a single one as
    itself."""
    n = len(modalities)
    turn = 1 + step % max(1, n - 1)
    return {m: modalities[(i + turn) % n] for i, m in enumerate(modalities)}
