"""What predicting an image will need of memory, said before it starts."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unpaired.device import resident_bytes
from unpaired.inference.inferer import Inferer
from unpaired.inference.tiling import EXACT_BYTES, make_tiling
from unpaired.io.volume import Volume

# Per voxel of the file: a float copy, and what the resampler makes of it first; of the grid: the
# resampled channel and the resampler at work.
_BYTES_FILE, _BYTES_TARGET = 8, 12
# Labels of the file, once more where they are turned back; numbered pieces, where the largest is
# kept.
_BYTES_LABELS, _BYTES_PIECES = 2, 9


@dataclass(frozen=True)
class Needs:
    """An estimate for one image.

    Attributes:
        image: its name.
        memory_bytes: of the whole process at its largest, as the system counts it. Of a GPU's own
            memory nothing: where that runs out, smaller batches are tried.
        free_bytes: free now, or held by this process already.
        machine_bytes: all there is, swap included.
        batch_size: patches that go through the network together.
    """

    image: str
    memory_bytes: int
    free_bytes: int
    machine_bytes: int
    batch_size: int

    @property
    def remedy(self) -> str:
        """What would help, in a few words."""
        smaller = "predict with --batch-size 1, " if self.batch_size > 1 else ""
        return f"{smaller}crop the image, or use a machine with more memory"


def needs_of(
    inferers: Sequence[Inferer],
    recipes: int,
    volumes: Sequence[Volume],
    patch_bytes: int,
    pieces: bool = False,
    scores: np.ndarray | None = None,
) -> Needs:
    """From the sizes alone: an image with much air around it needs less.

    Args:
        inferers: of the models that predict together.
        recipes: how many differently prepared images they see.
        volumes: one a channel, read already.
        patch_bytes: what `bytes_of_a_patch` found, the most of all models.
        pieces: whether the largest piece of a class is looked for.
        scores: what all probabilities are written into, if they are.
    """
    plan, first = inferers[0].plan, volumes[0]
    turn = plan.orientation(first)
    native = turn.apply(first.array).shape
    extent_mm = np.multiply(native, turn.spacing(first.spacing_mm))
    grid = [max(1, round(n)) for n in np.divide(extent_mm, plan.spacing_mm)]
    voxels, target, channels = int(np.prod(native)), int(np.prod(grid)), len(volumes)
    # One channel after the other, and all of them copied together.
    together = channels * (2 if channels > 1 else 1) * 4 * target
    preparing = _BYTES_FILE * voxels + _BYTES_TARGET * target + together
    prepared = recipes * channels * 4 * target
    tiling = make_tiling(grid, plan.patch, inferers[0].settings.overlap)
    batch = min(inferers[0].settings.batch_size, len(tiling.corners()))
    labels = (_BYTES_LABELS + _BYTES_PIECES * pieces) * voxels
    classes = len(plan.classes)
    planes = 3 * 4 * classes * (native[1] * native[2] + grid[1] * grid[2])
    ring = 4 * tiling.patch[0] * classes * int(np.prod(tiling.padded[1:]))
    ring = ring if ring <= EXACT_BYTES else ring // 2
    predicting = prepared + labels + planes + len(inferers) * ring + batch * patch_bytes
    kept = 0 if scores is None or isinstance(scores, np.memmap) else scores.nbytes
    process, memory = resident_bytes(), psutil.virtual_memory()
    return Needs(
        first.path.name if first.path is not None else "the image",
        process + kept + max(preparing, predicting),
        int(memory.available) + process,
        int(memory.total + psutil.swap_memory().total),
        batch,
    )


def bytes_of_a_patch(inferer: Inferer, channels: int) -> int:
    """The most that the network's tensors take together for one patch; 0 on a GPU, whose memory is
    not counted, and where the network is not torch's."""
    if inferer.device.type != "cpu":
        return 0
    patch = (*[1] * (3 - len(inferer.plan.patch)), *inferer.plan.patch)
    settings = inferer.settings.model_copy(update={"batch_size": 1})
    counted = Counted()
    with counted:
        deque(
            replace(inferer, settings=settings).scores(np.zeros((channels, *patch), np.float32)),
            maxlen=0,
        )
    return counted.most


class Counted(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make.

    Attributes:
        most: the most that lived together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch would load its compiler, a second, to keep it away from this class.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {_key(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        out = func(*args, **(kwargs or {}))
        self._alive = {k: v for k, v in self._alive.items() if not v[0].expired()}
        for one in tree_leaves(out):
            if isinstance(one, Tensor) and (key := _key(one)) not in given | self._alive.keys():
                storage = one.untyped_storage()
                self._alive[key] = (StorageWeakRef(storage), storage.nbytes())
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return out


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
