"""From a file to labels on exactly its grid: orientations, oblique affines, oracles, real scans."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import unpaired
from tiny_model import (
    pointwise_model,
    pointwise_predictor,
    smooth_image,
    tiny_config,
    tiny_plan,
    write_model,
    write_nifti,
)
from unpaired.data.preprocess import preprocess, restore_labels
from unpaired.errors import DataError, ResourceError, UsageError
from unpaired.inference.predictor import Predictor
from unpaired.io.nifti import read_volume
from unpaired.io.resample import resample_argmax
from unpaired.io.volume import Volume
from unpaired.metrics import keep_largest

AFFINE = np.array([[-1.7, 0, 0, 40], [0, -2.2, 0, 30], [0, 0, 3.1, -20], [0, 0, 0, 1.0]])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return Predictor.from_folder(folder, device="cpu")


def same_header(a: Path, b: Path) -> None:
    """Shape, affine, qform, sform, codes and units are equal to the last bit."""
    x, y = nib.load(a).header, nib.load(b).header
    assert x.get_data_shape() == y.get_data_shape()
    assert np.array_equal(x.get_best_affine(), y.get_best_affine())
    for name in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
        assert np.array_equal(x[name], y[name]), name
    for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_y", "srow_z"):
        assert np.array_equal(x[name], y[name]), name


def test_all_48_orientations_give_the_same_voxels_on_their_own_grid(tmp_path: Path) -> None:
    predictor = Predictor([pointwise_model(tiny_plan(), kernel=3)], torch.device("cpu"))
    image = nib.Nifti1Image(smooth_image((20, 15, 9)), AFFINE)
    expected: np.ndarray | None = None
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = image.as_reoriented(np.stack([order, flips], 1))
            path = tmp_path / "x.nii.gz"
            write_nifti(path, np.asarray(turned.dataobj), turned.affine)
            predictor.predict_file(path, tmp_path / "y.nii.gz", "ct")
            same_header(path, tmp_path / "y.nii.gz")
            found = nib.load(tmp_path / "y.nii.gz")
            assert found.get_data_dtype() == np.uint8
            back = nib.as_closest_canonical(found).dataobj
            expected = np.asarray(back) if expected is None else expected
            np.testing.assert_array_equal(np.asarray(back), expected)
    assert expected is not None and len(np.unique(expected)) > 1


def test_an_oblique_affine_with_a_different_qform_is_kept(
    predictor: Predictor, tmp_path: Path
) -> None:
    angle = 0.4
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    path = write_nifti(tmp_path / "x.nii", smooth_image((18, 22, 7)), turn @ AFFINE, AFFINE)
    predictor.predict_file(path, tmp_path / "y.nii", "mr", probabilities=True)
    same_header(path, tmp_path / "y.nii")
    found = nib.load(tmp_path / "y_probabilities.nii")
    np.testing.assert_array_equal(found.affine, nib.load(path).affine)
    assert found.shape == (18, 22, 7, 3)


@pytest.mark.parametrize("spacing_mm", [(3.0, 2.0, 2.0), (9.0, 1.0, 1.4), (1.5, 6.0, 6.0)])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_labels_equal_the_dense_way(
    spacing_mm: tuple[float, float, float], seeds: tuple[int, ...]
) -> None:
    """Preprocess, all probabilities at once, mean, dense resampling, arg max, back to the file."""
    plan = tiny_plan(("background", "a", "b", "c"), spacing_mm=spacing_mm)
    volume = Volume(smooth_image((34, 40, 12)), AFFINE)
    prepared = preprocess([volume], "ct", plan)
    members = [pointwise_model(plan, seed) for seed in seeds]
    slices = range(prepared.array.shape[1])
    near = [[max(i - 1, 0), i, min(i + 1, slices[-1])] for i in slices]
    stack = torch.from_numpy(np.concatenate([prepared.array[:1, three] for three in near]))
    scores = sum(m.segmenter(stack, "ct").logits.softmax(1) for m in members) / len(members)
    assert isinstance(scores, torch.Tensor)
    expected = restore_labels(resample_argmax(scores.transpose(0, 1), prepared.box_shape), prepared)
    found = Predictor(members, torch.device("cpu"), batch_size=3).predict(volume, "ct")
    assert (found.labels != expected).mean() < 1e-4  # tiles are summed in another order
    assert len(np.unique(expected)) >= 3


def test_probabilities_sum_to_one_and_the_labels_are_their_arg_max(tmp_path: Path) -> None:
    plan = tiny_plan(("background", "a", "b", "c"))
    image = smooth_image((34, 40, 12))
    image[:5], image[..., :2] = -7, -7  # a constant border, which is cropped and comes back
    path = write_nifti(tmp_path / "x.nii.gz", image, AFFINE)
    predictor = pointwise_predictor(plan, 0, 1)
    found = predictor.predict(path, "ct", probabilities=True)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(found.probabilities.argmax(0), found.labels)
    assert (found.probabilities[0, :5] == 1).all() and (found.labels[:5] == 0).all()
    predictor.predict_file(path, tmp_path / "y.nii.gz", "ct", probabilities=True)
    written = np.moveaxis(nib.load(tmp_path / "y_probabilities.nii").get_fdata(), 3, 0)
    np.testing.assert_allclose(written, found.probabilities, atol=1e-5)
    np.testing.assert_array_equal(nib.load(tmp_path / "y.nii.gz").get_fdata(), found.labels)


def test_path_volume_and_array_are_the_same_image(predictor: Predictor, tmp_path: Path) -> None:
    image = smooth_image((16, 18, 6))
    path = write_nifti(tmp_path / "x.nii.gz", image, AFFINE)
    expected = predictor.predict(path, "ct").labels
    for other in (read_volume(path), str(path), [path]):
        np.testing.assert_array_equal(predictor.predict(other, "ct").labels, expected)
    again = predictor.predict(image, "ct", affine=nib.load(path).affine)
    np.testing.assert_array_equal(again.labels, expected)
    plain = predictor.predict(image, "ct", spacing_mm=(1.7, 2.2, 3.1)).labels
    ras = predictor.predict(image, "ct", affine=np.diag([1.7, 2.2, 3.1, 1])).labels
    np.testing.assert_array_equal(plain, ras)


def test_modalities_differ_and_the_exported_modalities_are_used(predictor: Predictor) -> None:
    volume = Volume(smooth_image((16, 18, 6)), AFFINE)
    a, b = (predictor.predict(volume, m, probabilities=True).probabilities for m in ("ct", "mr"))
    assert a is not None and b is not None and np.abs(a - b).max() > 1e-3


def test_several_channels_come_in_their_order(tmp_path: Path) -> None:
    predictor = pointwise_predictor(tiny_plan(channels=2))
    pair = [Volume(smooth_image((16, 18, 6), seed), AFFINE) for seed in (0, 1)]
    a, b = predictor.predict(pair, "ct").labels, predictor.predict(pair[::-1], "ct").labels
    assert (a != b).any()
    with pytest.raises(DataError, match="2 channel"):
        predictor.predict(pair[0], "ct")
    moved = Volume(pair[1].array, AFFINE + np.diag([0.0, 0, 0.1, 0]))
    with pytest.raises(DataError, match="mm"):
        predictor.predict([pair[0], moved], "ct")


def test_the_largest_component_is_kept_of_the_named_classes_only() -> None:
    plan = tiny_plan(("background", "a", "b"))
    specks = np.random.default_rng(0).integers(0, 900, (20, 24, 8), dtype=np.int16)
    volume = Volume(specks, AFFINE)
    predictor = pointwise_predictor(plan)
    plain = predictor.predict(volume, "ct").labels
    found = predictor.predict(volume, "ct", largest_component=["b"]).labels
    np.testing.assert_array_equal(found, keep_largest(plain, {2}))
    assert (found != plain).any()
    with pytest.raises(UsageError, match="Did you mean 'liver'"):
        pointwise_predictor(tiny_plan()).predict(volume, "ct", largest_component=["livr"])


def test_the_modality_is_asked_for_or_guessed_only_where_there_is_one() -> None:
    volume = Volume(smooth_image((8, 8, 4)), AFFINE)
    several = pointwise_predictor(tiny_plan(modalities=("arterial", "venous")))
    with pytest.raises(UsageError, match="Did you mean 'venous'"):
        several.predict(volume, "venus")
    with pytest.raises(UsageError, match="arterial, venous"):
        several.predict(volume)
    single = pointwise_predictor(tiny_plan(modalities=("venous",)))
    assert single.predict(volume).modality == "venous"


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.zeros((3, 3)), DataError),
        (np.zeros((3, 3, 3), complex), DataError),
        (np.full((3, 3, 3), np.nan), DataError),
        (np.zeros((0, 3, 3)), DataError),
        (np.zeros((3, 3, 3, 2)), DataError),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error):
        pointwise_predictor(tiny_plan()).predict(array, "ct", spacing_mm=(1.0, 1.0, 1.0))


def test_an_array_without_geometry_is_refused() -> None:
    with pytest.raises(UsageError, match="geometry"):
        pointwise_predictor(tiny_plan()).predict(np.zeros((3, 3, 3)), "ct")


def test_the_image_is_never_overwritten(predictor: Predictor, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", smooth_image((8, 8, 4)), AFFINE)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is the image itself"):
        predictor.predict_file(path, path, "ct")
    with pytest.raises(UsageError, match="must end"):
        predictor.predict_file(path, tmp_path / "x.png", "ct")
    assert path.read_bytes() == before


def test_memory_that_runs_short_halves_the_batch_and_is_told() -> None:
    plan = tiny_plan()
    predictor = pointwise_predictor(plan)
    volume = Volume(smooth_image((16, 18, 6)), AFFINE)
    expected = predictor.predict(volume, "ct").labels
    backbone = predictor.models[0].segmenter.backbone
    plain = backbone.forward

    def greedy(image: torch.Tensor, *rest: object) -> object:
        if len(image) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(image, *rest)  # type: ignore[arg-type]

    backbone.forward = greedy  # type: ignore[method-assign, assignment]
    found = predictor.predict(volume, "ct")
    np.testing.assert_array_equal(found.labels, expected)
    assert [note.split()[-1] for note in found.notes] == ["4", "2"]
    assert predictor.predict(volume, "ct").notes == ()

    def never(image: torch.Tensor, *rest: object) -> object:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    backbone.forward = never  # type: ignore[method-assign, assignment]
    with pytest.raises(ResourceError, match="16 x 18 x 6"):
        predictor.predict(volume, "ct")

    def broken(image: torch.Tensor, *rest: object) -> object:
        raise RuntimeError("something else")

    backbone.forward = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="something else"):
        predictor.predict(volume, "ct")


LIMITED = """
import resource, sys
sys.path.insert(0, {here!r})
import numpy as np, torch
from tiny_model import pointwise_predictor, tiny_plan
torch.set_num_threads(1)
classes = ("background", *map(str, range(20)))
predictor = pointwise_predictor(tiny_plan(classes, spacing_mm=(3.0, 2.0, 2.0)))
rng = np.random.default_rng(0)
def run(length):
    image = rng.integers(0, 500, (96, 96, length), dtype=np.int16)
    return predictor.predict(image, "ct", spacing_mm=(2, 2, 1.5)).labels
run(8)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + {extra}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
labels = run({length})
assert len(np.unique(labels)) > 3
"""


@pytest.mark.linux
def test_a_long_scan_with_many_classes_fits_a_fixed_ceiling() -> None:
    """21 classes x 96 x 96 x 800 as floats are 619 MB; the image as float32 is 29 MB."""
    length, extra = 800, 200 << 20
    assert 21 * 96 * 96 * length * 4 > 2.5 * extra
    code = LIMITED.format(here=str(Path(__file__).parents[1]), length=length, extra=extra)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, unpaired; assert 'torch' not in sys.modules; unpaired.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert unpaired.Predictor is Predictor
    with pytest.raises(AttributeError, match="nothing"):
        unpaired.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("data/torso/ct/imagesTr", "ct"),
        ("data/torso/mr/imagesTr", "mr"),
        ("data/odd/pir", "mr"),
    ],
)
def test_real_scans_come_back_on_their_grid(
    shared: Callable[[str], Path], tmp_path: Path, name: str, modality: str
) -> None:
    plan = tiny_plan(spacing_mm=(9.0, 6.0, 6.0))
    write_model(tmp_path / "model", plan, tiny_config())
    predictor = Predictor.from_folder(tmp_path / "model", device="cpu", batch_size=16)
    paths = sorted(shared(name).rglob("*.nii.gz"))
    assert paths
    for path in paths[:2]:
        found = predictor.predict_file(path, tmp_path / "y.nii.gz", modality)
        same_header(path, tmp_path / "y.nii.gz")
        assert found.labels.shape == nib.load(path).shape and found.labels.max() <= 2
