"""Choices behind the pictures: the slice, its window and crop, colours, escaping, smoothing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_run import VALUES, imperfect, small_subject

from unpaired.report.curves import cosines, running_mean, same_class_sentence
from unpaired.report.figures import Picture, plain
from unpaired.report.html import Card, environment
from unpaired.report.overlays import draw
from unpaired.report.slices import (
    best_median_worst,
    body_box,
    load_slice,
    prediction_file,
    richest_slice,
)
from unpaired.report.tables import case_means
from unpaired.run.contents import read_contents
from unpaired.tables import Table


def test_a_slice_is_upright_and_whole(full_run):
    """Rows run to the back, columns to the patient's left, in the true aspect."""
    run = read_contents(full_run)
    shown = load_slice(run, "ct", "ct_001")
    _, label, affine = small_subject("ct", 1)
    # The affine is diag(-2.5, -2, 6): i runs to Left, j to Posterior, k to Superior.
    assert affine[0, 0] < 0 and affine[1, 1] < 0
    upright = label[:, :, shown.index].T
    assert shown.spacing_mm == (2.0, 2.5) and shown.count == 12
    assert VALUES[6] == 4  # the truth file holds 6 for the liver
    np.testing.assert_array_equal(*(cropped(a) for a in (shown.truth, upright)))
    predicted = imperfect(label, 1)[:, :, shown.index].T
    np.testing.assert_array_equal(*(cropped(a) for a in (shown.prediction, predicted)))
    # The liver, on the patient's right, is on the left of the picture.
    columns = np.nonzero(shown.truth == 4)[1]
    assert columns.mean() < np.nonzero(shown.truth == 1)[1].mean()
    assert (shown.low, shown.high) == (-160.0, 240.0)


def cropped(labels: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(labels)
    return labels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


@pytest.mark.parametrize("axis", ["P", "L"])
def test_other_slice_axes_have_the_head_on_top(full_run, tmp_path, axis):
    run = read_contents(full_run)
    run = type(run)(**{**vars(run), "plan": {**run.plan, "slice_axis": axis}})
    shown = load_slice(run, "ct", "ct_000")
    image, _, _ = small_subject("ct", 0)
    plane = image[:, shown.index, ::-1].T if axis == "P" else image[shown.index, :, ::-1].T
    rows, columns = shown.image.shape
    fits = [
        np.array_equal(plane[i : i + rows, j : j + columns], shown.image)
        for i in range(plane.shape[0] - rows + 1)
        for j in range(plane.shape[1] - columns + 1)
    ]
    assert sum(fits) == 1
    assert draw(shown, run.classes)[:4] == b"\x89PNG"


def test_best_median_and_worst_by_mean_dice(full_run):
    run = read_contents(full_run)
    content = json.loads((full_run / "evaluation" / "evaluation.json").read_text())["cases"]
    means = {}
    for case in {c["case"] for c in content if c["modality"] == "mr"}:
        means[case] = np.mean([c["dice"] for c in content if c["case"] == case])
    ranked = sorted(means, key=lambda case: means[case])
    assert case_means(run.evaluation, "mr") == pytest.approx(means)
    found = best_median_worst(run, "mr")
    assert found == {"best": ranked[-1], "median": ranked[2], "worst": ranked[0]}


def test_the_slice_shows_all_classes_rather_than_one_large():
    truth = np.zeros((3, 10, 10), np.uint8)
    truth[0, :8] = 1
    truth[1, :5] = 1
    truth[1, 6:8, :4] = 2
    truth[2, 6:9, :4] = 2
    assert richest_slice(truth) == 1
    assert richest_slice(np.zeros((5, 2, 2), np.uint8)) == 2


def test_the_crop_leaves_air_and_keeps_labels():
    image = np.zeros((100, 120))
    image[20:80, 30:100] = 100
    image[95, :] = 100  # the table's edge
    labels = np.zeros(image.shape, np.uint8)
    rows, columns = body_box(image, labels, 0.0, 100.0)
    assert 16 <= rows.start <= 20 and 80 <= rows.stop <= 84
    assert 26 <= columns.start <= 30 and 100 <= columns.stop <= 104
    labels[90, 5] = 1
    rows, columns = body_box(image, labels, 0.0, 100.0)
    assert rows.stop > 90 and columns.start <= 5
    assert body_box(labels * 0.0, labels * 0, 0.0, 1.0) == (slice(0, 100), slice(0, 120))


EVIL = """<a href='x' title="y">&"""


@pytest.mark.parametrize(
    ("part", "arguments", "times"),
    [
        ("header", (EVIL, EVIL, EVIL, [Card(EVIL, EVIL, EVIL, EVIL)]), 7),
        ("box", (EVIL, [EVIL, EVIL]), 3),
        ("table", (Table([EVIL, "x"], [[EVIL, 1], [EVIL, EVIL]], EVIL),), 5),
        ("definitions", ({EVIL: EVIL},), 2),
        ("legend", ({EVIL: EVIL},), 2),
        ("gallery", ([Picture("x", b"", EVIL, EVIL, EVIL, EVIL, EVIL)],), 5),
    ],
)
def test_what_a_user_named_is_escaped_once(part, arguments, times):
    parts = environment().get_template("parts.html").module
    text = getattr(parts, part)(*arguments)
    assert text.count("&lt;a href=&#39;x&#39; title=&#34;y&#34;&gt;&amp;") == times
    assert "<a " not in text and "&amp;lt;" not in text


def test_cells_keep_their_kind():
    table = environment().get_template("parts.html").module.table
    page = "".join(table(Table(["a", "b", "c"], [["x", "y", 1.5]], "t", names=2)).split("\n"))
    assert '<th scope="row">x</th><td>y</td><td class="num">1.5</td>' in page
    assert 'aria-label="t"' in page and "class" not in page.partition("<table")[2][:10]


def test_a_word_in_a_picture_is_one_plain_line():
    assert plain("a\nb $x$") == r"a b \$x\$" and len(plain("x" * 99)) == 48


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(st.just(float("nan")), st.floats(-9, 9)), min_size=1, max_size=30),
    st.integers(1, 12),
)
def test_running_mean_equals_the_plain_loop(values, width):
    values = np.array(values)
    for index, found in enumerate(running_mean(values, width)):
        near = values[max(0, index - width // 2) : index + width // 2 + 1]
        near = near[np.isfinite(near)]
        expected = near.mean() if near.size else np.nan
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_cosines_and_the_sentence():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 6))
    a[3] = 0
    found = cosines(np.concatenate([a, b]))
    for i, u in enumerate([*a, *b]):
        for j, v in enumerate([*a, *b]):
            length = np.linalg.norm(u) * np.linalg.norm(v)
            assert found[i, j] == pytest.approx(u @ v / length if length else 0.0)
    mean = np.mean([found[i, 4 + i] for i in range(4)])
    assert re.search(r"-?\d\.\d\d", same_class_sentence({"x": a, "y": b})).group() == f"{mean:.2f}"
    assert same_class_sentence({"x": a, "y": 2 * a})[-5:-1] == "0.75"


def test_predictions_may_be_plain_nifti(tmp_path: Path):
    (tmp_path / "predictions" / "a").mkdir(parents=True)
    (tmp_path / "predictions" / "a" / "x.nii").touch()
    assert prediction_file(tmp_path, "a", "x").name == "x.nii"
    assert prediction_file(tmp_path, "a", "y").name == "y.nii.gz"


def test_a_log_of_a_resumed_run_has_one_record_per_step(tmp_path):
    lines = [{"kind": "step", "step": s, "loss": loss} for s, loss in [(1, 9), (2, 8), (2, 7)]]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    found = read_contents(tmp_path).steps
    assert [(r["step"], r["loss"]) for r in found] == [(1, 9), (2, 7)]
