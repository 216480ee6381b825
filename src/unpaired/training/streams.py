"""Where the batches of a step come from: one stream a modality, or two where the plan localises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from unpaired.config import Config
from unpaired.data.cache import PreparedCase
from unpaired.data.case_sampling import CaseSampler, CentredCrop, WholeView
from unpaired.data.plan import Plan
from unpaired.data.sampling import Batch, PatchSampler
from unpaired.models import whole


@runtime_checkable
class Sampler(Protocol):
    """Batches as a pure function of the step."""

    @property
    def places(self) -> int:
        """Number of samples in a pass over all cases."""

    def batch(self, step: int) -> Batch:
        """The batch of this step; the same whenever it is asked for."""


@dataclass(frozen=True)
class Stream:
    """A sampler, and the spacing of its images along their spatial axes."""

    sampler: Sampler
    spacing_mm: tuple[float, ...]


def streams_of(
    config: Config,
    plan: Plan,
    cases: Mapping[str, Sequence[PreparedCase]],
    rank: int = 0,
    world: int = 1,
) -> dict[str, Stream]:
    """Patches of every modality; with a coarse view in the plan, centred crops and whole views."""
    options = config.train
    if plan.coarse is None:
        spacing = plan.spacing_mm[-plan.dims :]
        return {
            m: Stream(
                PatchSampler(
                    members, m, plan.patch, plan.context, options.batch_size,
                    options.foreground, options.seed, rank, world,
                ),
                spacing,
            )
            for m, members in cases.items()
        }  # fmt: skip
    coarse_mm = tuple(n * mm for n, mm in zip(plan.coarse.stride, plan.spacing_mm, strict=True))
    crop = CentredCrop(plan.patch, tuple(config.locate.jitter_mm / mm for mm in plan.spacing_mm))
    view = WholeView(plan.coarse)
    tail = (options.batch_size, options.seed, rank, world)
    crops = {
        m: Stream(CaseSampler(members, m, crop, *tail), plan.spacing_mm)
        for m, members in cases.items()
    }
    views = {
        whole(m): Stream(CaseSampler(members, whole(m), view, *tail), coarse_mm)
        for m, members in cases.items()
    }
    return crops | views
