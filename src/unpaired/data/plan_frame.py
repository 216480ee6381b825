"""What the plan says of the frame: which crop, where it comes from, what that means for scores."""

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from unpaired.data.frame import needs_label
from unpaired.data.plan_types import Plan
from unpaired.errors import UsageError

_PRICE = (
    "So the crop comes from the labels, as in the literature: scores on the prepared grid are of "
    "images that the truth has placed, and compare with published ones only. Prediction needs no "
    "label: it sees the whole scan, and scores on the native grid are of that."
)


@runtime_checkable
class FrameOptions(Protocol):
    """The part of a modality's configuration that shapes the frame."""

    @property
    def plane_centre(self) -> Literal["image", "labels"]: ...
    @property
    def slices(self) -> Literal["all", "labelled"]: ...


def with_frames(
    plan: Plan, plane: tuple[int, int] | None, modalities: Mapping[str, FrameOptions]
) -> Plan:
    """The plan with the configured crop and a sentence on it.

    Raises:
        UsageError: a plane is to be centred that has no size.
    """
    recipes = {}
    for m, recipe in plan.modalities.items():
        options = modalities.get(m)
        if options is None:
            recipes[m] = recipe
            continue
        if options.plane_centre == "labels" and plane is None:
            raise UsageError(
                f"modalities.{m}.plane_centre=labels centres a plane whose size is not given; set "
                "data.plane, such as [256, 256], or plane_centre=image."
            )
        recipes[m] = recipe.model_copy(
            update={"plane_centre": options.plane_centre, "slices": options.slices}
        )
    found = plan.model_copy(update={"plane": plane, "modalities": recipes})
    reasons = {**plan.reasons, **_said(found)}
    return found.model_copy(update={"reasons": reasons})


def _said(plan: Plan) -> dict[str, str]:
    said = {}
    if plan.plane is not None:
        rows, columns = plan.plane
        said["plane"] = (
            f"Every prepared slice is cut or padded to {rows} x {columns}, as configured; the "
            "padding is the smallest intensity of the cut. Clip, mean and deviation are of the cut."
        )
    for m, recipe in plan.modalities.items():
        parts = []
        if plan.plane is not None and recipe.plane_centre == "labels":
            parts.append("Slices are centred on the mean position of the labelled voxels.")
        if recipe.slices == "labelled":
            parts.append("Only slices from the first to the last that holds a class are kept.")
        if needs_label(plan, recipe):
            said[f"frame.{m}"] = " ".join([*parts, _PRICE])
    return said
