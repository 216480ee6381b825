"""Phantoms: reproducible, plausible, in the right place, not trivial, and apart by modality."""

from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.stats import spearmanr

from unpaired.datasets.dataset import class_names, value_table
from unpaired.datasets.sources import open_dataset
from unpaired.errors import UsageError
from unpaired.io.nifti import read_label, read_volume
from unpaired.io.volume import canonical_orientation
from unpaired.phantom import LEVELS, MODALITIES, make_subject, scan, write_phantom
from unpaired.phantom.field import EXTENT_MM, smooth, stream
from unpaired.phantom.render import PLAUSIBLE_ML, fitted_subject, render, volumes_ml
from unpaired.phantom.shapes import Ellipsoid, Tube
from unpaired.phantom.subject import ORGANS
from unpaired.phantom.tissue import CT, T2, Values

STD = LEVELS["std"]
BOTH = ("ct", "mr")


@cache
def subject(modality: str, number: int, q: float = 2.5) -> tuple:
    return make_subject(modality, number, STD, q, 0)


def masks(modality: str, number: int, q: float = 2.5) -> dict[str, np.ndarray]:
    label = subject(modality, number, q)[1]
    return {name: label == value for name, value in MODALITIES[modality].labels.items()}


def centroid_ras(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return affine[:3, :3] @ np.argwhere(mask).mean(0) + affine[:3, 3]


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, {"ct": 1, "mr": 2}, seed=3, quality=4, workers=1)
    return folder


def test_same_seed_same_bytes_whatever_the_workers(written: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    tell = lambda *call: told.append(call)  # noqa: E731
    write_phantom(
        tmp_path,
        {"ct": 1, "mr": 2},
        seed=3,
        quality=4,
        workers=2,
        progress=tell,
    )
    assert sorted(name for _, _, name in told) == ["ct_001", "mr_001", "mr_002"]
    assert [done for done, _, _ in told] == [1, 2, 3] and {total for _, total, _ in told} == {3}
    assert files(tmp_path) == files(written)


def test_goes_on_where_it_stopped(written: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path, {"mr": 1}, seed=3, quality=4, workers=1)
    kept = tmp_path / "mr/imagesTr/mr_001_0000.nii.gz"
    before = kept.stat().st_mtime_ns
    told: list[tuple[int, int, str]] = []
    tell = lambda *call: told.append(call)  # noqa: E731
    counts = {"ct": 1, "mr": 2}
    write_phantom(tmp_path, counts, seed=3, quality=4, workers=1, progress=tell)
    assert sorted(name for _, _, name in told) == ["ct_001", "mr_002"]
    assert kept.stat().st_mtime_ns == before
    (tmp_path / "mr/labelsTr/mr_001.nii.gz").unlink()
    write_phantom(tmp_path, counts, seed=3, quality=4, workers=1)
    assert files(tmp_path) == files(written)


def test_layout_is_read_as_nnunet_and_classes_join_by_name(written: Path) -> None:
    sets = {modality: open_dataset(modality, written / modality) for modality in BOTH}
    classes = class_names(sets)
    assert sorted(classes[1:]) == sorted(name.replace("_", " ") for name in ORGANS)
    assert sets["ct"].labels != sets["mr"].labels
    assert [case.id for case in sets["mr"].cases] == ["mr_001", "mr_002"]
    for modality, dataset in sets.items():
        table = value_table(dataset, classes)
        case = dataset.cases[0]
        image, label = read_volume(case.images[0]), read_label(case.label)
        assert image.array.dtype == np.int16 and image.array.shape == label.array.shape
        assert set(np.unique(label.array)) == set(table)
        again = make_subject(modality, 1, STD, 4, 3)
        for stored, made in zip((image, label), again, strict=False):
            assert np.array_equal(stored.array, made)
            assert np.allclose(stored.affine, again[2], atol=1e-4)


def test_native_geometries_differ() -> None:
    spacings = {}
    for modality in BOTH:
        _, label, affine = subject(modality, 1)
        assert np.count_nonzero(affine[:3, :3]) == 3  # neither rotated nor sheared
        axes, slice_mm = scan.slices(MODALITIES[modality].geometry, 2.5, (0, modality, 1))
        sizes = sorted(np.abs(affine[:3, :3]).max(0))
        assert sizes == pytest.approx(sorted([axes.width_mm, axes.width_mm, slice_mm]))
        orientation = canonical_orientation(affine)
        spacings[modality] = orientation.spacing(tuple(np.linalg.norm(affine[:3, :3], axis=0)))
        # Upright in the canonical order: liver on the low side of the last axis, kidneys behind.
        upright = orientation.apply(label)
        values = MODALITIES[modality].labels
        liver, kidney = (
            np.argwhere(upright == values[name]).mean(0) for name in ("liver", "left_kidney")
        )
        assert liver[2] < kidney[2] and liver[1] < kidney[1] and liver[0] > kidney[0]
    axes = [canonical_orientation(subject(modality, 1)[2]) for modality in BOTH]
    assert (axes[0].axes, axes[0].flips) != (axes[1].axes, axes[1].flips)
    assert spacings["ct"][0] == pytest.approx(3) and 5.5 <= spacings["mr"][0] <= 6.5


def test_subjects_modalities_and_seeds_are_different_people() -> None:
    def anatomy(modality: str, number: int, seed: int) -> tuple[float, ...]:
        return tuple(volumes_ml(fitted_subject((seed, modality, number), STD)).values())

    people = [anatomy(*who) for who in (("ct", 1, 0), ("ct", 2, 0), ("mr", 1, 0), ("ct", 1, 1))]
    assert len(set(people)) == 4
    assert anatomy("ct", 1, 0) == people[0]


@pytest.mark.slow
@pytest.mark.parametrize("modality", BOTH)
def test_anatomy_does_not_depend_on_quality(modality: str) -> None:
    fine, coarse = masks(modality, 1, 1.5), masks(modality, 1, 2.5)
    for name in ORGANS:
        ml, places = [], []
        for q, mask in ((1.5, fine[name]), (2.5, coarse[name])):
            affine = subject(modality, 1, q)[2]
            ml.append(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)
            places.append(centroid_ras(mask, affine))
        assert ml[1] == pytest.approx(ml[0], rel=0.025)
        assert np.linalg.norm(places[0] - places[1]) < 0.5


@pytest.mark.slow
def test_components_have_streams_of_their_own() -> None:
    plain = subject("ct", 1)
    for change in ({"bowel": 2.0, "noise": 3.0}, {"lesions": 6.0, "spread": 0.0}):
        image, label, affine = make_subject("ct", 1, replace(STD, **change), 2.5, 0)
        assert np.array_equal(label, plain[1]) and np.array_equal(affine, plain[2])
        assert not np.array_equal(image, plain[0])


@pytest.mark.slow
@pytest.mark.parametrize("modality", BOTH)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_organs_lie_on_the_right_side(modality: str, number: int) -> None:
    affine = subject(modality, number)[2]
    place = {name: centroid_ras(mask, affine) for name, mask in masks(modality, number).items()}
    assert place["liver"][0] > 20 and place["right_kidney"][0] > 20  # RAS: x grows to the right
    assert place["spleen"][0] < -20 and place["left_kidney"][0] < -20
    for kidney in ("right_kidney", "left_kidney"):
        assert place[kidney][1] < place["liver"][1] - 10  # further back
        assert place[kidney][2] < place["liver"][2] - 10  # further down


@pytest.mark.parametrize("q", [1.5, 2.5])
def test_no_air_or_contrast_within_organs(q: float) -> None:
    for number in (1, 2):
        key = (0, "ct", number)
        axes, _ = scan.slices(scan.CT_GEOMETRY, q, key)
        some = replace(axes, z=axes.z[::4])
        ideal = render(fitted_subject(key, STD), CT, STD, key, some)
        organs = ideal.value[ideal.label > 0]
        assert organs.min() > -150  # fat is; air is at -1000, so a tenth of it would show
        assert organs.max() < 330
        assert (ideal.value < -700).sum() > 500  # there is air around, and lung


@pytest.mark.parametrize("level", LEVELS)
def test_volumes_are_plausible(level: str) -> None:
    for number in range(1, 5):
        for modality in BOTH:
            found = volumes_ml(fitted_subject((1, modality, number), LEVELS[level]))
            for name, (low, high) in PLAUSIBLE_ML.items():
                assert 0.9 * low < found[name] < 1.1 * high, (modality, number, name)


def best_window(image: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    """The best Dice of any window between quantiles of the organ, and the window."""
    edges = np.unique(np.quantile(image[mask], np.linspace(0, 1, 31)))
    both = np.concatenate([[0], np.cumsum(np.histogram(image[mask], edges)[0])])
    every = np.concatenate([[0], np.cumsum(np.histogram(image, edges)[0])])
    low, high = np.triu_indices(len(edges), 1)
    dice = 2 * (both[high] - both[low]) / (every[high] - every[low] + mask.sum())
    best = dice.argmax()
    return float(dice[best]), float(edges[low[best]]), float(edges[high[best]])


@pytest.mark.parametrize("modality", BOTH)
def test_no_threshold_solves_it(modality: str) -> None:
    for name in ORGANS:
        found = [
            best_window(subject(modality, n)[0], masks(modality, n)[name])[0] for n in (1, 2, 3)
        ]
        assert np.mean(found) < (0.75 if name == "liver" else 0.5)


def standardised(modality: str, number: int) -> np.ndarray:
    image = subject(modality, number)[0].astype(float)
    low, high = (-160, 240) if modality == "ct" else np.percentile(image, (0.5, 99.5))
    image = np.clip(image, low, high)
    return (image - image.mean()) / image.std()


def test_modalities_are_a_domain_apart() -> None:
    names = sorted(set(CT.tissues) - {"air"})
    looks = [
        [Values(contrast, STD, (0, modality, 1)).of(name) for name in names]
        for contrast, modality in ((CT, "ct"), (T2, "mr"))
    ]
    assert spearmanr(*looks).statistic < 0.3
    # A window learnt on one modality is of little use on the other.
    for name in ("liver", "spleen"):
        _, low, high = best_window(standardised("ct", 1), masks("ct", 1)[name])
        for number in (1, 2, 3):
            image, mask = standardised("mr", number), masks("mr", number)[name]
            inside = (image >= low) & (image < high)
            crossed = 2 * (inside & mask).sum() / (inside.sum() + mask.sum())
            assert crossed < 0.75 * best_window(image, mask)[0]


def test_a_further_contrast_is_one_more_table() -> None:
    image, label, _ = make_subject("t1", 1, STD, 4, 0)
    values = MODALITIES["t1"].labels
    liver, spleen = (np.median(image[label == values[name]]) for name in ("liver", "spleen"))
    assert liver > spleen  # the other way round in T2
    t2, label, _ = subject("mr", 1)
    values = MODALITIES["mr"].labels
    assert np.median(t2[label == values["liver"]]) < np.median(t2[label == values["spleen"]])


@pytest.mark.parametrize("modality", BOTH)
def test_hard_and_easy_differ_in_noise(modality: str) -> None:
    def roughness(level: str) -> float:
        image, label, _ = make_subject(modality, 1, LEVELS[level], 4, 0)
        liver = label == MODALITIES[modality].labels["liver"]
        step = np.diff(image.astype(float), axis=0)[liver[1:] & liver[:-1]]
        return float(np.median(np.abs(step)) / np.median(image[liver] + 100 * (modality == "ct")))

    assert roughness("easy") < roughness("std") < roughness("hard")


def test_smooth_field_is_a_cubic_b_spline() -> None:
    field = smooth(stream((0, "ct", 1), "test"), 60, 2)
    z, y, x = np.array([-20.0, 7.3]), np.array([3.0]), np.array([-61.0, 100.4])
    bump = BSpline.basis_element(np.arange(5.0), extrapolate=False)

    def weight(mm: float, axis: int, knot: int) -> float:
        value = bump((mm - EXTENT_MM[axis][0]) / 60 - knot + 3)
        return 0.0 if np.isnan(value) else float(value)

    found = field.on(z, y, x)
    for (i, j, k), value in np.ndenumerate(found):
        expected = sum(
            c * weight(z[i], 2, a) * weight(y[j], 1, b) * weight(x[k], 0, d)
            for (a, b, d), c in np.ndenumerate(field.coefficients)
        )
        assert value == pytest.approx(expected, abs=1e-4)


def test_distances_against_plain_geometry() -> None:
    random = np.random.default_rng(0)
    points = random.uniform(-40, 40, (3, 5, 1, 1)).astype(np.float32)
    ball = Ellipsoid(np.array([3.0, -4, 5]), np.full(3, 12.0), np.eye(3))
    tube = Tube(np.array([[-20.0, 0, 3], [10, 8, 0], [25, -5, 9]]), np.full(3, 6.0))
    found = ball.distance(*points), tube.distance(*points)
    along = np.linspace(0, 1, 4001)[:, None]
    chain = np.concatenate([a + along * (b - a) for a, b in pairwise(tube.points)])
    for i in range(5):
        point = points[:, i, 0, 0]
        assert found[0][i, 0, 0] == pytest.approx(
            np.linalg.norm(point - ball.centre) - 12, abs=1e-3
        )
        nearest = np.linalg.norm(chain - point, axis=1).min()
        assert found[1][i, 0, 0] == pytest.approx(nearest - 6, abs=1e-2)
    egg = Ellipsoid(np.zeros(3), np.array([10.0, 20, 30]), np.eye(3))
    surface = np.array([10.0, 20, 30]) * np.array([0.6, 0.0, 0.8])
    for mm in (-1.0, 0.0, 1.0):  # first order: right near the surface
        normal = surface / np.array([10.0, 20, 30]) ** 2
        at = (surface + mm * normal / np.linalg.norm(normal)).astype(np.float32)
        assert egg.distance(*at.reshape(3, 1, 1, 1)).item() == pytest.approx(mm, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": "medium"}, "no phantom level 'medium'"),
        ({"counts": {"pet": 2}}, "no phantom modality 'pet'"),
        ({"counts": {"ct": 0}}, "0 cases of ct"),
        ({"counts": {}}, "no modality was asked for"),
        ({"quality": 9.0}, "quality 9.0 is out of range"),
    ],
)
def test_wrong_calls_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_phantom(tmp_path, **{"counts": {"ct": 1}, "workers": 1, **change})
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_settings_is_refused(written: Path) -> None:
    before = files(written)
    with pytest.raises(UsageError, match="phantom of other settings"):
        write_phantom(written, {"ct": 1}, seed=4, quality=4, workers=1)
    assert files(written) == before
