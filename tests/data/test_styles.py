"""Second views and random intensity networks: against loops, sample by sample, on any axes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from small_sets import body, prepared_case
from unpaired.config import AugmentConfig
from unpaired.data import styles
from unpaired.data.augment import augment
from unpaired.data.sampling import Batch
from unpaired.data.styles import SecondViews, case_styles, change_some, random_network, seen_as


def by_loops(image: np.ndarray, key: list[int]) -> np.ndarray:
    """One sample [K *space] through its network, convolution by convolution."""
    rng, axes = np.random.default_rng(key), image.ndim - 1
    share = rng.random()
    maps = [[channel.astype(float)] for channel in image]
    for layer in range(4):
        before, after = (1 if layer == 0 else 2), (1 if layer == 3 else 2)
        size = (1, 3)[int(rng.integers(2))]
        weight = rng.standard_normal((after, before, *[size] * axes))
        shift = rng.standard_normal(after)
        out = []
        for channel in maps:
            new = [
                sum(
                    correlate(x, w, mode="nearest") for x, w in zip(channel, weight[o], strict=True)
                )
                + shift[o]
                for o in range(after)
            ]
            out.append([y if layer == 3 else np.where(y > 0, y, 0.01 * y) for y in new])
        maps = out
    mixed = share * np.stack([channel[0] for channel in maps]) + (1 - share) * image
    return mixed * np.linalg.norm(image) / np.linalg.norm(mixed)


@pytest.mark.parametrize("space", [(7,), (6, 5), (3, 4, 5)])
def test_a_random_network_equals_the_loops(space: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    image = torch.randn(3, 2, *space, dtype=torch.float64)
    keys = [[7, i] for i in range(3)]
    found = random_network(image, keys)
    for i, key in enumerate(keys):
        np.testing.assert_allclose(found[i], by_loops(image[i].numpy(), key), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1:2], random_network(image[1:2], keys[1:2]))
    torch.testing.assert_close(found.flatten(1).norm(dim=1), image.flatten(1).norm(dim=1))
    assert not torch.equal(found[0], image[0])


def test_equal_channels_stay_equal() -> None:
    """Neighbouring slices of one image look alike afterwards, too."""
    image = torch.randn(2, 1, 8, 8).expand(-1, 3, -1, -1)
    found = random_network(image, [[1], [2]])
    assert torch.equal(found[:, 0], found[:, 2])
    assert not torch.equal(random_network(image[:1], [[1]]), random_network(image[:1], [[2]]))


def test_a_chance_touches_as_many_as_it_says_and_no_other() -> None:
    image = torch.randn(400, 1, 4, 4)
    keys = [[3, i] for i in range(len(image))]
    found = change_some(image, 0.25, keys)
    changed = (found != image).flatten(1).any(1)
    assert 70 < int(changed.sum()) < 130
    few = change_some(image[:10], 0.25, keys[:10])
    torch.testing.assert_close(few, found[:10])
    assert change_some(image, 0.0, keys) is image


def batch(image: torch.Tensor, label: torch.Tensor, cases: tuple[str, ...]) -> Batch:
    return Batch(image, label, cases, torch.arange(len(image)))


def test_augment_uses_it_after_the_rest_and_only_where_asked() -> None:
    given = batch(torch.randn(40, 1, 8, 8), torch.zeros(40, 8, 8, dtype=torch.long), ("x",) * 40)
    options = AugmentConfig(probability=0.5)
    plain = augment(given, options, (False, False), 3, "a")
    some = augment(given, options.model_copy(update={"gin": 0.3}), (False, False), 3, "a")
    changed = (some.image != plain.image).flatten(1).any(1)
    assert 4 <= int(changed.sum()) <= 20
    assert torch.equal(some.label, plain.label)
    with pytest.raises(ValueError, match="less than or equal to"):
        AugmentConfig(gin=0.5)


def test_styles_are_means_and_deviations_class_by_class(tmp_path) -> None:
    image, label = body((6, 12, 10))
    label[:, 0] = 255  # nobody annotated
    label = np.select([label == 3, label == 7, label == 255], [1, 2, 255], 0).astype(np.uint8)
    case = prepared_case(tmp_path, "one", np.stack([image, -image]), label)
    (found,) = case_styles([case], 4).values()
    slices = sorted({int(z) for c in case.slices.values() for z in c})
    assert found.shape == (2, 5, 2)
    for k, sign in enumerate((1, -1)):
        x = case.intensities(sign * image[slices].astype(np.int16), k).astype(float)
        for z in range(3):
            own = x[label[slices] == z]
            np.testing.assert_allclose(found[k, z], (own.mean(), own.std()), rtol=1e-6)
        np.testing.assert_allclose(found[k, 4], (x.mean(), x.std()), rtol=1e-6)
        assert np.isnan(found[k, 3]).all()


def test_a_class_takes_the_drawn_cases_mean_and_deviation() -> None:
    """Away from borders, where factor and shift are averaged; the whole slices' where a class is
    not known."""
    torch.manual_seed(0)
    label = torch.zeros(1, 24, 24, dtype=torch.long)
    label[0, :, 12:] = 1
    label[0, 20:] = 2  # a class that the other case lacks
    own = np.array([[[0.0, 1.0], [2.0, 0.5], [5.0, 1.0], [1.0, 2.0]]])
    other = np.array([[[1.0, 2.0], [-1.0, 1.0], [np.nan, np.nan], [0.0, 1.0]]])
    image = torch.randn(1, 3, 24, 24, dtype=torch.float64)
    views = SecondViews("classes", 0, {"a": {"x": own}, "b": {"y": other}})
    found = views.image(batch(image, label, ("x",)), "a", "b")
    for rows, columns, factor, shift in (
        (slice(0, 18), slice(0, 10), 2.0, 1.0),
        (slice(0, 18), slice(14, 24), 2.0, -5.0),
        (slice(22, 24), slice(0, 24), 0.5, -0.5),
    ):
        expected = image[..., rows, columns] * factor + shift
        torch.testing.assert_close(found[..., rows, columns], expected)
    edge = found[0, 0, 5, 11] - image[0, 0, 5, 11] * 2
    assert -5 < edge < 1, "no hard edge along the label"
    unknown = replace(batch(image, torch.full_like(label, -100), ("x",)))
    torch.testing.assert_close(views.image(unknown, "a", "b"), image * 0.5 - 0.5)


def test_a_second_view_depends_on_its_own_sample_only() -> None:
    image, label = torch.randn(3, 1, 6, 6), torch.zeros(3, 6, 6, dtype=torch.long)
    whole = Batch(image, label, ("x",) * 3, torch.tensor([4, 5, 6]))
    one = Batch(image[1:2], label[1:2], ("x",), torch.tensor([5]))
    views = SecondViews("gin", 2, {})
    torch.testing.assert_close(views.image(whole, "a", "b")[1:2], views.image(one, "a", "b"))
    assert not torch.equal(views.image(one, "a", "b"), views.image(one, "c", "b"))


def test_every_other_modality_takes_its_turn() -> None:
    assert seen_as(["a"], 3) == {"a": "a"}
    assert seen_as(["a", "b"], 0) == seen_as(["a", "b"], 1) == {"a": "b", "b": "a"}
    turns = [seen_as(["a", "b", "c"], step) for step in range(4)]
    assert {turn["a"] for turn in turns} == {"b", "c"}
    assert all(m != other for turn in turns for m, other in turn.items())
    assert styles.VIEW != styles.GIN
