"""Many cases: grouping of files, going on where it stopped, and what is told of failures."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_model import (
    pointwise_model,
    pointwise_predictor,
    smooth_image,
    tiny_plan,
    write_nifti,
)
from unpaired.colours import class_rgb
from unpaired.errors import DataError, ResourceError, UsageError
from unpaired.files import read_json
from unpaired.inference.images import files_in, group_channels
from unpaired.inference.label_files import itksnap_table, slicer_table
from unpaired.inference.predictor import Predictor

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def write_cases(folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        write_nifti(folder / name, smooth_image((10, 12, 5), seed), AFFINE)


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in sorted(folder.glob("*.nii*"))}


@settings(deadline=None, max_examples=50)
@given(
    cases=st.sets(st.sampled_from(["a", "b_1", "c_0000", "patient 7", "x_2021", "é"]), min_size=1),
    channels=st.integers(1, 3),
    ending=st.sampled_from([".nii", ".nii.gz"]),
)
def test_names_with_channel_numbers_come_back_as_cases(
    cases: set[str], channels: int, ending: str
) -> None:
    paths = [Path(f"{case}_{k:04d}{ending}") for case in cases for k in range(channels)]
    found, failures = group_channels(paths[::-1], channels)
    assert not failures
    assert found == {
        case: tuple(Path(f"{case}_{k:04d}{ending}") for k in range(channels)) for case in cases
    }


def test_plain_names_are_cases_of_one_channel() -> None:
    found, failures = group_channels([Path("scan_2021.nii.gz"), Path("b.nii")], 1)
    assert set(found) == {"scan_2021", "b"} and not failures


@pytest.mark.parametrize(
    ("names", "channels", "words"),
    [
        (["a_0000.nii", "a_0002.nii"], 3, "0001 of 3 is missing"),
        (["a_0000.nii", "a_0001.nii", "a_0002.nii"], 2, "channel 0002"),
        (["a.nii", "a.nii.gz"], 1, "same channel"),
        (["a.nii.gz", "a_0000.nii.gz"], 1, "same channel"),
        (["a.nii.gz"], 2, "0001 of 2 is missing"),
    ],
)
def test_incomplete_cases_are_named(names: list[str], channels: int, words: str) -> None:
    found, failures = group_channels([Path(n) for n in [*names, "ok_0000.nii"]], channels)
    assert "a" not in found and words in failures["a"]


def test_hidden_files_are_not_images_and_an_empty_folder_is_told(tmp_path: Path) -> None:
    write_cases(tmp_path / "inner", "a.nii.gz", "._b.nii.gz")
    assert [p.name for p in files_in(tmp_path / "inner")] == ["a.nii.gz"]
    with pytest.raises(DataError, match=r"Did you mean .*inner"):
        files_in(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        files_in(tmp_path / "nowhere")


def test_a_folder_is_predicted_and_the_numbers_are_explained(tmp_path: Path) -> None:
    write_cases(tmp_path / "in", "a_0000.nii.gz", "b.nii")
    seen: list[tuple[int, int, str]] = []
    predictor = pointwise_predictor(tiny_plan())
    outcome = predictor.predict_folder(
        tmp_path / "in", tmp_path / "out", "ct", progress=lambda *call: seen.append(call)
    )
    assert seen == [(1, 2, "a"), (2, 2, "b")]
    assert set(outcome.written) == {"a", "b"}
    for case, name in {"a": "a_0000.nii.gz", "b": "b.nii"}.items():
        expected = predictor.predict(tmp_path / "in" / name, "ct").labels
        found = nib.load(outcome.written[case])
        np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    labels = read_json(tmp_path / "out" / "labels.json")["labels"]
    assert labels == {"background": 0, "liver": 1, "spleen": 2}
    assert (tmp_path / "out" / "labels.txt").exists() and (tmp_path / "out/labels.ctbl").exists()


def test_what_is_done_is_kept_until_model_options_or_image_change(tmp_path: Path) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    write_cases(images, "a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz")
    predictor = pointwise_predictor(tiny_plan())
    predictor.predict_folder(str(images), str(out), "ct")
    before = stamps(out)
    outcome = predictor.predict_folder(images, out, "ct")
    assert stamps(out) == before and set(outcome.kept) == set("abcd") and not outcome.written
    (out / "b.nii.gz").write_bytes((out / "b.nii.gz").read_bytes()[:-9])
    time = (images / "c.nii.gz").stat().st_mtime_ns
    write_cases(tmp_path / "other", "c.nii.gz", "d.nii.gz")
    (tmp_path / "other" / "d.nii.gz").replace(images / "c.nii.gz")
    os.utime(images / "c.nii.gz", ns=(time, time))  # another image of the same time
    (out / "d.nii.gz").unlink()
    assert set(predictor.predict_folder(images, out, "ct").written) == set("bcd")
    os.utime(images / "c.nii.gz", ns=(2**62, 2**62))  # touched, the same content
    assert set(predictor.predict_folder(images, out, "ct").written) == set()
    assert set(predictor.predict_folder(images, out, "mr").written) == set("abcd")
    options = {"largest_component": ["liver"]}
    assert set(predictor.predict_folder(images, out, "mr", **options).written) == set("abcd")
    assert set(predictor.predict_folder(images, out, "mr", **options).kept) == set("abcd")
    other = Predictor([pointwise_model(tiny_plan(), 1)], torch.device("cpu"))
    assert set(other.predict_folder(images, out, "mr", **options).written) == set("abcd")
    again = other.predict_folder(images, out, "mr", overwrite=True, **options)
    assert set(again.written) == set("abcd")
    more = other.predict_folder(images, out, "mr", probabilities=True, **options)
    assert set(more.written) == set("abcd") and (out / "a_probabilities.nii").exists()


def test_probabilities_of_another_model_are_not_kept(tmp_path: Path) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    write_cases(images, "a.nii.gz")
    first, second = (pointwise_predictor(tiny_plan(), seed) for seed in (0, 1))
    first.predict_folder(images, out, "ct", probabilities=True)
    assert set(first.predict_folder(images, out, "ct", probabilities=True).kept) == {"a"}
    old = (out / "a_probabilities.nii").read_bytes()
    second.predict_folder(images, out, "ct")
    assert (out / "a_probabilities.nii").read_bytes() == old
    again = second.predict_folder(images, out, "ct", probabilities=True)
    assert set(again.written) == {"a"} and (out / "a_probabilities.nii").read_bytes() != old


def test_one_bad_case_does_not_stop_the_others_and_is_told_at_the_end(tmp_path: Path) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    write_cases(images, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    (images / "b.nii.gz").write_bytes((images / "b.nii.gz").read_bytes()[:50])
    (images / "0.nii.gz").write_bytes(b"<html>not found</html>")
    predictor = pointwise_predictor(tiny_plan())
    with pytest.raises(DataError) as caught:
        predictor.predict_folder(images, out, "ct")
    message = str(caught.value)
    assert message.startswith("2 of 4 cases") and "  0: " in message and "  b: " in message
    assert set(stamps(out)) == {"a.nii.gz", "c.nii.gz"}
    write_cases(images, "0.nii.gz", "b.nii.gz")
    outcome = predictor.predict_folder(images, out, "ct")
    assert set(outcome.kept) == {"a", "c"} and set(outcome.written) == {"0", "b"}


def test_the_folder_of_the_images_is_refused(tmp_path: Path) -> None:
    write_cases(tmp_path, "a.nii.gz")
    before = stamps(tmp_path)
    with pytest.raises(UsageError, match="holds the images"):
        pointwise_predictor(tiny_plan()).predict_folder(tmp_path, tmp_path, "ct")
    assert stamps(tmp_path) == before


def test_a_folder_that_cannot_be_written_stops_at_once(tmp_path: Path) -> None:
    write_cases(tmp_path / "in", "a.nii.gz")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ResourceError, match="cannot write"):
        pointwise_predictor(tiny_plan()).predict_folder(tmp_path / "in", tmp_path / "out", "ct")


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
plain = os.fsync
def half(file):
    name = os.readlink(f"/proc/self/fd/{{file}}")
    if not name.endswith(".nii.gz"):
        return plain(file)
    os.truncate(name, os.path.getsize(name) // 2)
    os.kill(os.getpid(), 9)
os.fsync = half
from tiny_model import pointwise_predictor, tiny_plan
pointwise_predictor(tiny_plan()).predict_folder(Path(sys.argv[1]), Path(sys.argv[2]), "ct")
"""


@pytest.mark.linux
def test_killed_while_writing_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    write_cases(images, "a.nii.gz")
    code = KILLED.format(here=str(Path(__file__).parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", code, str(images), str(out)], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    assert not (out / "a.nii.gz").exists() and list(out.glob(".a.*.nii.gz"))
    outcome = pointwise_predictor(tiny_plan()).predict_folder(images, out, "ct")
    assert set(outcome.written) == {"a"}


def test_label_tables_say_what_the_viewers_read() -> None:
    classes = ("background", "left kidney", 'odd "name"')
    rows = [line.split(None, 7) for line in itksnap_table(classes).splitlines()[1:]]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert [row[7] for row in rows] == ['"background"', '"left kidney"', "\"odd 'name'\""]
    assert rows[0][1:7] == ["0"] * 6 and rows[1][4:7] == ["1", "1", "1"]
    columns = [line.split() for line in slicer_table(classes).splitlines()[1:]]
    assert [c[1] for c in columns] == ["background", "left_kidney", 'odd_"name"']
    assert [tuple(map(int, c[2:5])) for c in columns] == class_rgb(classes)
