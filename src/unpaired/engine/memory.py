"""Running out of memory, told in the user's words, whoever noticed it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unpaired.data.paths import shown
from unpaired.errors import ResourceError
from unpaired.io.volume import Volume


class OutOfMemoryError(ResourceError):
    """A case needs more memory than there is; other cases may not."""


def is_memory(error: BaseException) -> bool:
    """Whether an error of numpy, of a GPU, or of torch's CPU allocator means no memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )


@contextmanager
def told_for(grid: Volume) -> Iterator[None]:
    """Turn such errors into one that names the image and what to do.

    Raises:
        OutOfMemoryError: instead of them.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        size = " x ".join(map(str, grid.array.shape))
        name = "the image" if grid.path is None else shown(grid.path)
        raise OutOfMemoryError(
            f"there is not enough memory for {name} ({size} voxels). Close other programs, or crop "
            "the image."
        ) from error
