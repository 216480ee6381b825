"""The plan, as it is stored in plan.json: how images are brought to one grid and scale."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from unpaired import files
from unpaired.datasets.planes import Planes, lattice_of, orient
from unpaired.errors import DataError
from unpaired.io.volume import Orientation, SliceAxis, Volume
from unpaired.plausibility.expected import Expected

Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=1)]
Frame = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""(start, stop) per axis of the target grid; may reach outside the image."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Clip(_Strict):
    """Limits for one channel: a window in the image's units, or percentiles of each volume."""

    kind: Literal["window", "percentile"]
    low: float
    high: float


class Levels(_Strict):
    """What one channel of the training images reached: the least and the most of all cases.

    Attributes:
        low, high: where the darkest and the brightest voxels lay.
        zero: where zero lay between these two, from 0 (at the darkest) to 1.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    zero: tuple[float, float]


class ModalityPlan(_Strict):
    """How one modality's channels are normalised; `mean` and `std` only for z-score "dataset".

    Attributes:
        plane_centre: where training images have the middle of the plan's plane.
        slices: which slices training images keep.
        levels: per channel, what training images reached; a trained model has it.
        expected: what is usual in training labels; a trained model has it.
    """

    channel_names: tuple[str, ...] = Field(min_length=1)
    clip: tuple[Clip, ...]
    zscore: Literal["volume", "dataset"] = "volume"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    plane_centre: Literal["image", "labels"] = "image"
    slices: Literal["all", "labelled"] = "all"
    levels: tuple[Levels, ...] = ()
    expected: Expected | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_known(self, write: Callable[[Any], Any]) -> dict[str, Any]:
        """As before these were known, so that older plans and checkpoints stay equal."""
        content: dict[str, Any] = write(self)
        for name in _OF_TRAINING:
            if not getattr(self, name):
                content.pop(name, None)
        return content

    @model_validator(mode="after")
    def _one_clip_a_channel(self) -> "ModalityPlan":
        if len(self.clip) != len(self.channel_names):
            raise ValueError(
                f"there are {len(self.clip)} clips for {len(self.channel_names)} channels"
            )
        return self


_OF_TRAINING = ("levels", "expected")
"""What a trained model knows of its training cases; no prepared image depends on it."""
_FRAMING = {"plane_centre": "image", "slices": "all"}


class CoarseView(_Strict):
    """A coarse view of the whole image, in which the structures are looked for.

    Attributes:
        stride: voxels of the target grid in a cell, per axis.
        shape: cells of the view; an image that needs more has a larger view.
        step: the view's sizes are multiples of this.
    """

    stride: tuple[Pixels, Pixels, Pixels]
    shape: tuple[Pixels, Pixels, Pixels]
    step: Pixels


class Plan(_Strict):
    """Everything that preparing an image needs, and why it was chosen.

    Attributes:
        classes: class names, background first.
        spacing_mm: target spacing (slice axis, row, column).
        slice_axis: the patient axis along which slices are stacked, or that comes closest.
        planes: the directions that scans are turned to; None: the patient's axes, as configured
            (and in plans from before oblique scans kept their planes).
        patch: (rows, columns) of a training image, or (slices, rows, columns) of a volume.
        plane: (rows, columns) that slices of training images are cut or padded to; None: whole.
        context: consecutive slices that a network of pictures sees; odd, and 1 for volumes.
        order: of the spline that resamples images.
        coarse: for a model that finds the structures first and then segments one crop, which has
            the size of the patch; else None.
        reasons: one sentence per choice.
    """

    version: Literal[1] = 1
    classes: tuple[str, ...] = Field(min_length=2)
    modalities: dict[str, ModalityPlan] = Field(min_length=1)
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    slice_axis: SliceAxis
    planes: Planes | None = None
    patch: tuple[Pixels, Pixels] | tuple[Pixels, Pixels, Pixels]
    plane: tuple[Pixels, Pixels] | None = None
    context: int = Field(3, ge=1)
    order: Literal[0, 1, 3] = 3
    coarse: CoarseView | None = None
    reasons: dict[str, str] = {}

    @field_validator("context")
    @classmethod
    def _has_a_middle(cls, context: int) -> int:
        if context % 2 == 0:
            raise ValueError(f"context must be odd, it is {context}")
        return context

    @model_validator(mode="after")
    def _volumes_have_no_context(self) -> "Plan":
        if self.dims == 3 and self.context != 1:
            raise ValueError(f"a patch of several slices has context 1, not {self.context}")
        return self

    @model_serializer(mode="wrap")
    def _without_planes(self, write: Callable[[Any], Any]) -> dict[str, Any]:
        """Without any, as checkpoints and models from before there were planes hold it."""
        content: dict[str, Any] = write(self)
        if self.planes is None:
            content.pop("planes", None)
        return content

    @property
    def dims(self) -> int:
        """Spatial axes of the network's input: 2 or 3."""
        return len(self.patch)

    @property
    def patch_axes(self) -> tuple[str, ...]:
        """The patient axis of each axis of a patch."""
        return self.axes[-self.dims :]

    @property
    def axes(self) -> tuple[str, str, str]:
        """The patient axis of each array axis, such as S, P, L."""
        if self.planes is not None:
            return self.planes.letters
        first, second = (letter for letter in "SPL" if letter != self.slice_axis)
        return self.slice_axis, first, second

    @property
    def oblique(self) -> Planes | None:
        """The directions of slices, rows and columns, if they are not the patient's axes."""
        return None if self.planes is None or self.planes.within_deg < 90 else self.planes

    @property
    def sideways(self) -> tuple[bool, ...]:
        """Whether left and right change along each axis of a patch."""
        if self.oblique is None:
            return tuple(letter == "L" for letter in self.patch_axes)
        return tuple(abs(x) > 0.5 for x, _, _ in self.oblique.units[-self.dims :])

    def orientation(self, image: Volume) -> Orientation:
        """How the axes of a file become slices, rows and columns."""
        return orient(lattice_of(image), self.slice_axis, self.planes)

    def fingerprint(self, modality: str) -> str:
        """Changes when, and only when, prepared images of this modality would change."""
        relevant = self.model_dump(
            include={"version", "classes", "spacing_mm", "slice_axis", "order"}
        )
        # Absent where slices lie along the patient's axes: such older caches are right.
        if self.oblique is not None:
            relevant["planes"] = self.oblique.model_dump()
        relevant["modality"] = self.modalities[modality].model_dump(
            exclude={*_FRAMING, *_OF_TRAINING}
        )
        # Absent where nothing is cut, so that caches from before frames were known stay valid.
        framing = {name: getattr(self.modalities[modality], name) for name in _FRAMING}
        if self.plane is not None or framing != _FRAMING:
            relevant["frame"] = {"plane": self.plane, **framing}
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, path: Path) -> None:
        """Write as JSON."""
        files.write_json(path, self.model_dump(), seal=True)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read what `write` wrote.

        Raises:
            DataError: missing, not JSON, or not a plan of this version.
        """
        text = json.dumps(files.read_json(path))
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DataError(
                f"{path} is not a plan of this version: {where}: {first['msg']}. Prepare again."
            ) from error
