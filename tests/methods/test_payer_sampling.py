"""One sample a case: whole coarse views and jittered crops, each a function of the step alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from small_cases import write_small
from unpaired.data.cache import PreparedCase
from unpaired.data.plan import CoarseView
from unpaired.data.sampling import Draws
from unpaired.errors import DataError
from unpaired.methods.payer.crops import (
    CaseSampler,
    CentredCrop,
    WholeView,
    coarse_image,
    coarse_marks,
)

SHAPE, PATCH = (8, 12, 10), (6, 8, 8)
CROP = CentredCrop(PATCH, (1.0, 2.0, 2.0))
VIEW = CoarseView(stride=(2, 3, 3), shape=(4, 4, 4), step=2)


def places(n: int) -> np.ndarray:
    """An image whose intensity says where a voxel is."""
    d, h, w = np.indices(SHAPE)
    return (10000 * n + 400 * d + 20 * h + w)[None].astype(np.float32)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[PreparedCase]:
    root = tmp_path_factory.mktemp("cases")
    found = []
    for n in range(3):
        label = np.zeros(SHAPE, np.uint8)
        label[2:5, 3 + n : 7 + n, 1:4] = 1
        label[6, 3 + n, 2] = 2
        found.append(write_small(root, f"case{n}", places(n), label))
    return found


def sampler(cases: list[PreparedCase], take=CROP, **more: int) -> CaseSampler:
    return CaseSampler(cases, "a", take, Draws(**{"batch_size": 2, "seed": 3, **more}))


def test_every_pass_takes_every_case_once(cases: list[PreparedCase]) -> None:
    seen = [case for step in range(6) for case in sampler(cases).batch(step).case]
    for start in range(0, 12, 3):
        assert sorted(seen[start : start + 3]) == ["case0", "case1", "case2"]
    assert len({tuple(seen[start : start + 3]) for start in range(0, 12, 3)}) > 1
    assert sampler(cases).places == 3


def test_a_batch_is_a_function_of_seed_name_and_step(cases: list[PreparedCase]) -> None:
    first, again = sampler(cases).batch(4), sampler(cases).batch(4)
    assert torch.equal(first.image, again.image) and first.case == again.case
    others = [sampler(cases).batch(5), sampler(cases, seed=4).batch(4)]
    others.append(CaseSampler(cases, "b", CROP, Draws(2, 3)).batch(4))
    assert all(not torch.equal(first.image, other.image) for other in others)


def test_two_ranks_draw_what_one_draws_with_a_double_batch(cases: list[PreparedCase]) -> None:
    whole = sampler(cases, batch_size=4).batch(2)
    parts = [sampler(cases, rank=rank, world=2).batch(2) for rank in (0, 1)]
    assert torch.equal(whole.image, torch.cat([part.image for part in parts]))
    assert torch.equal(whole.position, torch.cat([part.position for part in parts]))


def test_a_crop_holds_the_image_around_the_jittered_centre(cases: list[PreparedCase]) -> None:
    corners = set()
    for step in range(30):
        batch = sampler(cases).batch(step)
        for image, label, name in zip(batch.image, batch.label, batch.case, strict=True):
            case = cases[int(name[-1])]
            truth, stored = case.label(), places(int(name[-1]))[0]
            assert truth is not None
            # Of the 7 x 7 x 7 shifts about the centred crop exactly one gives this label.
            centre = np.array([4, (3 + int(name[-1]) + 6 + int(name[-1])) / 2, 2])
            start = np.floor(centre - (np.array(PATCH) - 1) / 2 + 0.5).astype(int)
            fits = []
            for shift in np.ndindex(7, 7, 7):
                corner = start + shift - 3
                index = (
                    np.stack(np.meshgrid(*map(np.arange, PATCH), indexing="ij"))
                    + corner[:, None, None, None]
                )
                ok = np.all((index >= 0) & (index < np.array(SHAPE)[:, None, None, None]), axis=0)
                near = tuple(index.clip(0, np.array(SHAPE)[:, None, None, None] - 1))
                wanted = np.where(ok, stored[near], stored.min())
                if np.abs(wanted - image[0].numpy()).max() < 1:
                    assert np.array_equal(np.where(ok, truth[near], 0), label.numpy())
                    fits.append(shift)
            assert len(fits) == 1
            assert np.all(np.abs(np.array(fits[0]) - 3) <= (2, 3, 3))
            corners.add(fits[0])
    assert len(corners) > 10


def test_a_whole_view_is_that_of_the_case(cases: list[PreparedCase]) -> None:
    batch = sampler(cases, WholeView(VIEW)).batch(0)
    for image, label, name in zip(batch.image, batch.label, batch.case, strict=True):
        case = cases[int(name[-1])]
        truth = case.label()
        assert truth is not None
        wanted = coarse_image(places(int(name[-1])), VIEW)
        assert np.abs(image.numpy() - wanted).max() < 0.1  # stored in 16 bits
        assert np.array_equal(label.numpy(), coarse_marks(truth, VIEW))


def test_training_needs_cases_with_labels(cases: list[PreparedCase], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training case"):
        sampler([])
    bare = write_small(tmp_path, "bare", places(0), None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a/bare has no label"):
        sampler([bare])
