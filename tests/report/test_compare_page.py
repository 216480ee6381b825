"""A comparison in words, pictures and files: true to its numbers, honest, self-contained."""

import csv
import io
import json
import re

import numpy as np
import pytest
from compared_runs import NAN, dice_table, seeds, write_run
from PIL import Image

from unpaired.report.compare import MEAN, compare
from unpaired.report.compare_figure import BETTER, WORSE, case_picture, class_picture
from unpaired.report.compare_page import effect_table, write_comparison
from unpaired.report.compare_sides import open_side
from unpaired.report.compare_words import caveats, p_text, sentence
from unpaired.tables import printed


def two(a, b, names=("alone", "joint"), **options):
    sides = [open_side(runs, name) for runs, name in zip((a, b), names, strict=True)]
    return compare(sides, **options)[0]


@pytest.fixture(scope="module")
def helped(tmp_path_factory):
    """Two seeds of MR alone against two of both, two points better."""
    root = tmp_path_factory.mktemp("helped")
    return two(seeds(root, "mr", 2, modalities=("mr",)), seeds(root, "both", 2, 0.02))


# Words


def test_the_answer_is_one_sentence_with_the_numbers_of_the_effect(helped):
    effect = helped.of("mr", "dice")
    text = sentence(helped, "mr", "dice")
    found = re.fullmatch(
        r"Training with MR and CT raised MR Dice by (\S+) points? over MR alone \(95 % interval "
        r"(\S+) to (\S+); n = 7 test cases, 2 seeds; Wilcoxon p = (\S+)\)\.",
        text.replace("CT and MR", "MR and CT"),
    )
    assert found, text
    expected = [100 * effect.difference.mean, 100 * effect.low, 100 * effect.high, effect.p]
    assert [float(x) for x in found.groups()] == pytest.approx(expected, abs=0.051)
    assert "lowered MR ASD by" in sentence(helped, "mr", "asd_mm")
    assert "mm, which is better, against MR alone" in sentence(helped, "mr", "asd_mm")
    assert [words[:18] for words in caveats(helped, "mr", "dice")] == ["Two seeds are few:"]


def test_harm_is_said_and_equal_modalities_go_by_their_names(tmp_path):
    found = two(seeds(tmp_path, "a", 2), seeds(tmp_path, "b", 2, -0.05), ("V3", "Ours"))
    assert sentence(found, "ct", "dice").startswith("Ours lowered CT Dice by ")
    assert " against V3 (" in sentence(found, "ct", "dice")
    assert "raised MR ASD by" in sentence(found, "mr", "asd_mm")
    assert ", which is worse, over V3" in sentence(found, "mr", "asd_mm")
    own = two(seeds(tmp_path, "x", 1), seeds(tmp_path, "y", 1, 0.1), metrics=["dice", "double"])
    assert re.search(
        r"joint raised MR double by 0\.\d{3} over alone", sentence(own, "mr", "double")
    )


def test_no_effect_and_too_few_are_said(tmp_path):
    def run(name, cases, shift, seed=0):
        table = dice_table(("mr",), cases, seed, shift)
        return write_run(tmp_path / name, table, f"seed={seed}")

    none = two([run("a", 4, 0.0)], [run("b", 4, 0.001, 3)])
    assert sentence(none, "mr", "dice").startswith("No effect of joint on MR Dice can be shown: ")
    assert "too few for a signed-rank test" in sentence(none, "mr", "dice")
    few, one_run = caveats(none, "mr", "dice")
    assert few.startswith("4 test cases are too few to be sure")
    assert one_run.startswith("One run a side")
    one = two([run("c", 1, 0.0)], [run("d", 1, 0.1)])
    assert sentence(one, "mr", "dice").startswith("Nothing can be said of MR Dice: 1 test case of ")
    same = two([run("e", 7, 0.0)], [run("e2", 7, 0.0)])
    assert "+0.0 points against alone (95 % interval 0.0 to 0.0" in sentence(same, "mr", "dice")
    assert "; no difference)" in sentence(same, "mr", "dice")
    uneven = two([run("f", 7, 0.0)], [run("g", 7, 0.1), run("h", 7, 0.1, 1)])
    assert "averaged case by case" in next(caveats(uneven, "mr", "dice"))


def made(tmp_path, differences, undefined=()):
    """Two runs whose one class differs by these, case by case."""
    keys = [("mr", f"case_{n}", "liver") for n in range(len(differences))]
    a = dict.fromkeys(keys, 0.5)
    b = {key: 0.5 + d for key, d in zip(keys, differences, strict=True)}
    lost = {("mr", f"case_{n}", "liver"): NAN for n in undefined}
    return two([write_run(tmp_path / "a", a, asd=lost)], [write_run(tmp_path / "b", b)])


def test_interval_and_test_that_disagree_are_said(tmp_path):
    hint = made(tmp_path / "1", [0.3, 0.28, 0.31, 0.3, 0.29, -0.01, -0.011, -0.012, -0.013, -0.014])
    assert hint.of("mr", "dice").p > 0.05
    assert hint.of("mr", "dice").low > 0
    assert any("does not confirm it" in words for words in caveats(hint, "mr", "dice"))
    sign = made(tmp_path / "2", [0.01, 0.012, 0.011, 0.009, 0.013, 0.014, 0.008, 0.9])
    assert sign.of("mr", "dice").p < 0.05
    assert sign.of("mr", "dice").low < 0
    assert any("signed-rank test alone" in words for words in caveats(sign, "mr", "dice"))
    both = made(tmp_path / "3", [0.2, 0.21, 0.19, 0.2, 0.22, 0.2, 0.21])
    assert [words[:14] for words in caveats(both, "mr", "dice")] == ["One run a side"]


def test_correction_for_several_comparisons_is_said(tmp_path):
    names = [("a", 0), ("b", 0.05), ("c", 0.06), ("d", 0.07), ("e", 0.08)]
    sides = [open_side(seeds(tmp_path, n, 1, s, ("mr",)), n) for n, s in names]
    for some, said in ((sides[:2], False), (sides, True)):
        found = compare(some)[0]
        assert (found.of("mr", "dice").p, found.of("mr", "dice").adjusted > 0.05) == (
            2 / 2**7,
            said,
        )
        assert any("Holm" in words for words in caveats(found, "mr", "dice")) == said


def test_undefined_scores_are_said(tmp_path):
    found = made(tmp_path, [0.1] * 7, undefined=(2, 3))
    assert any(
        "undefined for 2 organs of alone and 0 of joint" in words
        for words in caveats(found, "mr", "asd_mm")
    )
    assert not any("undefined" in words for words in caveats(found, "mr", "dice"))


def test_numbers_are_shown_with_their_unit():
    assert printed("dice").difference(0.0213) == "2.1 points"
    assert printed("dice").difference(-0.01, signed=True) == "-1.0 point"
    assert printed("asd_mm").difference(0.354, signed=True) == "+0.35 mm"
    assert printed("double").difference(0.1234) == "0.123"
    assert printed("dice").difference(NAN) == "–"
    assert [p_text(p) for p in (0.00001, 0.0312, 0.46, NAN)] == ["< 0.001", "0.031", "0.46", "–"]


# Tables


def test_the_table_shows_every_class_and_the_mean(helped):
    table = effect_table(helped, "mr", "dice")
    rows = table.rows
    assert list(table.head[:3]) == ["class", "alone: Dice (%)", "joint: Dice (%)"]
    assert [row[0] for row in rows] == ["liver", "spleen", "mean"]
    for row, cls in zip(rows, ("liver", "spleen", MEAN), strict=True):
        effect = helped.of("mr", "dice", cls)
        means = [float(cell.split(" ± ")[0]) for cell in row[1:3]]
        assert means == pytest.approx([100 * effect.a.mean, 100 * effect.b.mean], abs=0.05)
        assert float(row[3]) == pytest.approx(means[1] - means[0], abs=0.11)
        assert row[7:] == ["7", "0 / 0"]


# Pictures


def like(picture, colour):
    """Pixels of about this colour, also half-transparent on white."""
    pixels = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")).astype(int)
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return sum(int((np.abs(pixels - c).max(-1) < 12).sum()) for c in (rgb, (rgb + 255) / 2))


@pytest.mark.parametrize("draw", [case_picture, class_picture])
def test_better_is_blue_worse_is_vermilion(tmp_path, helped, draw):
    for metric in ("dice", "asd_mm"):
        good = draw(helped, "mr", metric, "x")
        assert like(good, BETTER) > 5 * like(good, WORSE)
    root = tmp_path
    worse = two(seeds(root, "b", 2, 0.02), seeds(root, "a", 2))
    bad = draw(worse, "mr", "dice", "x")
    assert like(bad, WORSE) > 5 * like(bad, BETTER)


def test_the_mean_lies_where_its_number_is(tmp_path):
    """Twice the shift moves the diamond twice as far from the zero line."""
    found = made(tmp_path, [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, -0.1, 0.1])
    picture = case_picture(found, "mr", "dice", "x")
    assert "7 above zero; mean +7.5 points" in picture.alt
    pixels = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")).astype(int)
    blue, red = (
        np.argwhere(np.abs(pixels - [int(c[i : i + 2], 16) for i in (1, 3, 5)]).max(-1) < 12)[:, 1]
        for c in (BETTER, WORSE)
    )
    assert red.max() < blue.min() + 20  # -10 left of +10
    assert blue.mean() - red.mean() > 0.5 * pixels.shape[1]


# Files


def test_the_page_stands_alone_and_holds_the_answer(tmp_path, helped):
    page = write_comparison(tmp_path / "out", [helped], "dice")
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', text)
    assert sentence(helped, "mr", "dice") in text
    for metric in ("dice", "asd_mm"):
        for row in effect_table(helped, "mr", metric).rows:
            assert all(cell.replace("<", "&lt;") in text for cell in row)
    assert text.count("data:image/png") == 2
    assert "CT is left out: only joint has it." in text
    assert "<h3>What differs" in text
    assert "over the classes of all modalities and comparisons here" in text  # Holm's families
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "comparison.html", "comparison.csv", "comparison.json", "cases_1_1.png", "classes_1_1.png"
    }  # fmt: skip


def test_csv_and_json_hold_every_difference(tmp_path, helped):
    write_comparison(tmp_path, [helped], "dice")
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open(encoding="utf-8")))
    dice = [r for r in rows if (r["metric"], r["class"]) == ("dice", "liver")]
    assert len(dice) == 2 * 7
    effect = helped.of("mr", "dice", "liver")
    assert sum(float(r["b_minus_a"]) for r in dice) / 14 == pytest.approx(effect.difference.mean)
    content = json.loads((tmp_path / "comparison.json").read_text())
    (one,) = content["comparisons"]
    assert one["answers"]["mr"] == sentence(helped, "mr", "dice")
    assert one["left_out"] == {"ct": "joint"}
    assert [run["seed"] for run in one["a"]["runs"]] == [0, 1]
    kept = [e for e in one["effects"] if (e["metric"], e["cls"]) == ("dice", "liver")]
    assert kept[0]["cases"] == pytest.approx(dict(effect.cases))


def test_what_a_user_names_is_escaped(tmp_path):
    a = write_run(tmp_path / "a", dice_table(("<i>mr",), 3, classes=("<b>x",)))
    found = two([a], [a], ("<u>one", "two&"))
    text = write_comparison(tmp_path / "out", [found], "dice").read_text(encoding="utf-8")
    for raw in ("<i>mr", "<b>x", "<u>one", "two&<"):
        assert raw not in text
    assert "&lt;b&gt;x" in text


def test_what_is_unfair_stands_in_a_box(tmp_path):
    a = write_run(tmp_path / "a", dice_table())
    b = write_run(tmp_path / "b", dice_table(), "train.steps=7")
    found = two([a], [b])
    text = write_comparison(tmp_path / "out", [found], "dice").read_text(encoding="utf-8")
    assert "What makes this comparison unfair" in text
    assert "train.steps is 20000 and 7" in text
