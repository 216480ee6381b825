"""Numbers of the tables against plain loops; the three formats say the same."""

import csv
import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from made_results import CLASSES, made_results, with_settings

from unpaired.evaluation.evaluate import NATIVE, PREPARED, VOXELS
from unpaired.experiments.notes import notes
from unpaired.experiments.paper import ALL, MEAN, cell, printed_class
from unpaired.experiments.pictures import figures, points
from unpaired.experiments.results import (
    ASD,
    DICE,
    Result,
    Results,
    numbers,
    seed_mean,
    verdict,
)
from unpaired.experiments.rows import EXPERIMENTS
from unpaired.experiments.tables import (
    all_tables,
    gained,
    latex,
    markdown,
    score_tables,
    tex,
    to_csv,
    validation_table,
)


def loop(result: Result, m: str, cls: str, metric: str, grid: str) -> dict[int, list[float]]:
    """Seed -> defined values, by hand."""
    found: dict[int, list[float]] = {}
    for seed, records in result.records.items():
        for record in records:
            for one in record.scores[grid]:
                if one.modality == m and one.cls == cls and one.truth_voxels > 0:
                    value = {DICE: 100 * one.dice, ASD: one.asd_mm}.get(metric)
                    value = one.extra[VOXELS] if value is None else value
                    if not math.isnan(value):
                        found.setdefault(seed, []).append(value)
    return found


@pytest.mark.parametrize("metric", [DICE, ASD, VOXELS])
@pytest.mark.parametrize("grid", [PREPARED, NATIVE])
def test_cells_equal_plain_loops(metric: str, grid: str) -> None:
    results = made_results("table7")
    for result in results.rows:
        found = numbers(result, metric, grid, results.columns)
        overall = []
        for m in ("ct", "mr"):
            means = []
            for cls in CLASSES:
                seeds = loop(result, m, cls, metric, grid)
                pooled = [v for values in seeds.values() for v in values]
                mean = sum(pooled) / len(pooled)
                std = math.sqrt(sum((v - mean) ** 2 for v in pooled) / len(pooled))
                ours = [sum(v) / len(v) for v in seeds.values()]
                centre = sum(ours) / 3
                between = math.sqrt(sum((v - centre) ** 2 for v in ours) / 2)
                one = found[m, cls]
                assert one.mean == pytest.approx(mean) and one.std == pytest.approx(std)
                assert one.seed_std == pytest.approx(between) and one.n == len(pooled)
                lost = 3 if cls == "liver" and metric != DICE else 0
                assert one.undefined == lost
                means.append(mean)
            assert found[m, MEAN].mean == pytest.approx(sum(means) / 4)
            overall.append(sum(means) / 4)
        assert found[ALL, MEAN].mean == pytest.approx(sum(overall) / 2)
    assert found["ct", "spleen"].n == 9 and found["ct", "left kidney"].n == 12


def test_the_spread_of_a_mean_is_that_of_the_seeds_means() -> None:
    results = made_results("table7")
    result = results.rows[0]
    keys = [("ct", cls) for cls in CLASSES]
    by_hand = []
    for seed in range(3):
        means = [np.mean(loop(result, "ct", cls, DICE, PREPARED)[seed]) for cls in CLASSES]
        by_hand.append(float(np.mean(means)))
        assert seed_mean(result.scores(PREPARED)[seed], keys, DICE) == pytest.approx(by_hand[-1])
    found = numbers(result, DICE, PREPARED, results.columns)["ct", MEAN]
    assert found.seed_std == pytest.approx(np.std(by_hand, ddof=1))
    assert points(results, result, "ct") == pytest.approx(by_hand)


def test_effects_are_paired_by_seed_and_case() -> None:
    results = made_results("table7")
    reference, other = results.rows[0], results.rows[1]
    assert reference.row.name == results.experiment.reference
    differences = []
    for seed in range(3):
        for case in range(4):
            means = []
            for row in (other, reference):
                values = [
                    100 * one.dice
                    for one in row.scores(PREPARED)[seed]
                    if one.case == f"mr_{case}" and one.truth_voxels
                ]
                means.append(sum(values) / len(values))
            differences.append(means[0] - means[1])
    found = results.effects
    assert len(found) == 8
    one = found[other.row.name, reference.row.name, "mr"]
    assert one.difference.mean == pytest.approx(sum(differences) / 12)
    assert one.low < one.difference.mean < one.high
    assert (one.difference.n_cases, one.difference.n_seeds) == (4, 3)
    assert math.isnan(one.p)  # four cases cannot be significant


def test_further_comparisons_stand_beside_those_with_the_reference() -> None:
    results = made_results("draws")
    found = {label: e.difference.mean for label, e in results.effects.items()}
    ours, control = "Ours", "Ours, one embedding set"
    assert len(found) == 2 * (3 + 2)
    for m in ("ct", "mr"):
        against_v3, control_v3 = found[ours, "Joint V3", m], found[control, "Joint V3", m]
        assert found[ours, control, m] == pytest.approx(against_v3 - control_v3)
        v2 = found["Joint V2", "Joint V3", m]
        assert found[ours, "Joint V2", m] == pytest.approx(against_v3 - v2)
    bare = [replace(r, records={}) if r.row.name == control else r for r in results.rows]
    left = replace(results, rows=tuple(bare)).effects
    assert len(left) == 2 * 3
    assert {control} & {name for e in left for name in (e.row, e.against)} == set()


def test_every_comparison_names_rows_of_its_experiment() -> None:
    for experiment in EXPERIMENTS.values():
        names = {row.name for row in experiment.rows}
        pairs = experiment.comparisons
        assert {name for pair in pairs for name in pair} <= names
        assert len(set(pairs)) == len(pairs) and all(a != b for a, b in pairs)


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "word"),
    [
        (0.2, 1.8, 0.01, "higher"),
        (0.2, 1.8, 0.2, "perhaps higher"),
        (0.2, 1.8, math.nan, "perhaps higher"),
        (-1.8, -0.2, 0.01, "lower"),
        (-0.2, 1.8, 0.01, "no difference"),
        (0.0, 1.8, 0.01, "no difference"),
        (math.nan, math.nan, 0.01, ""),
    ],
)
def test_what_is_shown_needs_the_interval_and_the_corrected_test(
    low: float, high: float, p_holm: float, word: str
) -> None:
    any_effect = next(iter(made_results("table7").effects.values()))
    assert verdict(replace(any_effect, low=low, high=high, p=0.001, adjusted=p_holm)) == word


def test_holm_is_over_all_rows_and_modalities() -> None:
    results = made_results("table7")
    better = []
    for shift, result in enumerate(results.rows):
        records = {
            seed: [_lifted(record, 0.01 * shift, 8) for record in records]
            for seed, records in results.rows[0].records.items()
        }
        better.append(replace(result, records=records))
    found = replace(results, rows=tuple(better)).effects.values()
    assert all(one.p == pytest.approx(2 / 2**8) for one in found)
    assert all(one.adjusted == pytest.approx(8 * 2 / 2**8) for one in found)
    assert [round(one.difference.mean, 6) for one in found] == [1, 1, 2, 2, 3, 3, 4, 4]


def _lifted(record, by: float, cases: int):  # type: ignore[no-untyped-def]
    scores = [
        replace(one, case=f"{one.modality}_{n}", dice=0.5 + by, truth_voxels=9)
        for n in range(cases)
        for one in record.scores[PREPARED][:: len(CLASSES)]
        if one.case.endswith("_0")
    ]
    return replace(record, scores={PREPARED: scores})


def cells_of(results: Results) -> dict[tuple[str, ...], str]:
    """(row, metric, grid, modality, class) -> "mean" from the CSV."""
    rows = list(csv.DictReader(io.StringIO(to_csv(results))))
    assert len(rows) == len(results.rows) * 5 * len(results.columns)
    keys = ("row", "metric", "grid", "modality", "class")
    return {tuple(row[k] for k in keys): row["mean"] for row in rows}


@pytest.mark.parametrize("paper", [False, True])
def test_markdown_latex_and_csv_say_the_same(paper: bool) -> None:
    results = made_results("table7", paper=paper)
    text = markdown(results)
    for table in all_tables(results):
        lines = text.split(f"**{table.title}**\n\n")[1].split("\n\n")[0].splitlines()
        found = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines]
        unmarked = [[c.replace("\\*", "*") for c in row] for row in found]
        assert unmarked[0] == [c.strip() for c in table.head]
        assert unmarked[2:] == [[c.strip() for c in row] for row in table.rows]
    plain = latex(results).replace("$\\pm$", "±").replace("$\\Delta$", "Δ").replace("\\%", "%")
    body = [line[:-3] for line in plain.splitlines() if line.endswith("\\\\")]
    wanted = [
        " & ".join(row).replace("_", "\\_").replace("  ", " ")
        for table in all_tables(results)
        for row in (table.head, *table.rows)
    ]
    assert [re.sub(" +", " ", line) for line in body] == [re.sub(" +", " ", w) for w in wanted]
    mean = cells_of(results)["Joint V3", DICE, PREPARED, "ct", "liver"]
    first = score_tables(results)[0]
    column = first.head.index("ct liver")
    assert first.rows[0][column].startswith(f"{float(mean):.1f} ± ")


def test_latex_prints_every_mark() -> None:
    assert tex("p < 0.001") == "p $<$ 0.001"
    assert tex("a\\b_{c}^2 ~ d|e > 5 %") == (
        "a\\textbackslash{}b\\_\\{c\\}\\textasciicircum{}2 \\textasciitilde{} d\\textbar{}e "
        "$>$ 5 \\%"
    )


def test_the_papers_column_and_the_gap() -> None:
    results = made_results("table7", paper=True)
    first = score_tables(results)[0]
    ours, paper, gap = first.rows[:3]
    assert [row[2] for row in first.rows[:3]] == ["ours", "paper", "gap"]
    assert {row[:2] for row in first.rows[:3]} == {("Joint V3", "nnFormer 3D")}
    column = first.head.index("mr liver")
    printed = cell("7", "dice_percent", "Joint V3", "MR", "Liver")
    assert printed is not None
    assert paper[column] == f"{printed.mean} ± {printed.std}" == "93.8 ± 2.3"
    number = numbers(results.rows[0], DICE, PREPARED, results.columns)["mr", "liver"].mean
    assert gap[column] == f"{number - 93.8:+.1f}"
    assert ours[column].startswith(f"{number:.1f}")
    last = first.head.index("all, mean")
    assert paper[last] == "91.5"
    native = next(t for t in score_tables(results) if "own grid" in t.title)
    assert set(native.rows[1][3:]) == {"-"}
    paper = {row[0]: row for row in first.rows if row[2] == "paper"}
    theirs = cell("7", "dice_percent", "Ours (w/ CR)", "MR", "Liver")
    assert theirs is not None and paper["Ours, as printed"][column].startswith(f"{theirs.mean} ")
    assert set(paper["Ours"][3:]) == {"-"}  # a row that the paper does not have


def test_an_erratum_is_marked_and_explained() -> None:
    text = markdown(made_results("table2", paper=True))
    assert "89.5\\*" in text
    assert "\\* as printed; 89.6 by its own row." in text
    assert "89.5" not in markdown(made_results("table2"))


def test_without_the_papers_data_there_is_no_column_of_it() -> None:
    table = score_tables(made_results("table7"))[0]
    assert "paper" not in str(table) and table.names == 2
    assert markdown(made_results("table5")).startswith("## Table 5: variants\n")
    assert markdown(made_results("table5", paper=True)).startswith(
        "## Table 5: variants, the heart"
    )
    assert len(table.rows) == 5 + 1  # the rows, and what position alone scores


def test_what_was_not_run_says_so() -> None:
    results = made_results("table7", left_out=2)
    table = score_tables(results)[0]
    assert set(table.rows[3][2:]) == set(table.rows[4][2:]) == {"not run"}
    assert table.rows[3][1] == "-" and "not run" not in table.rows[2]
    assert to_csv(results).count(",not run") == 2 * 5 * len(results.columns)
    failed = replace(results.rows[4], reason="failed: no memory")
    again = replace(results, rows=(*results.rows[:4], failed))
    cells = score_tables(again)[0].rows[4][2:]
    assert cells[0] == "failed: no memory" and set(cells[1:]) == {"failed"}
    empty = replace(results, rows=tuple(replace(r, records={}) for r in results.rows))
    assert len(all_tables(empty)) == 1 and figures(empty) == {}
    assert notes(empty) == []


def test_the_floor_and_the_parameters_are_in_the_tables() -> None:
    tables = all_tables(made_results("table5"))
    prior = tables[0].rows[-1]
    assert prior[0] == "position alone, no image"
    assert prior[1] == "-" and set(prior[2:]) == {"51.0"}  # of 50, 51 and 52
    parameters = tables[-1]
    assert parameters.title == "Parameters"
    assert ("Backbone", "ct", "2,000", "1,000") in parameters.rows
    assert ("Ours", "ct, mr", "2,000", "1,000") in parameters.rows


def test_the_floor_is_that_of_the_common_grid() -> None:
    """A comparator that stands first may have its own, and so another floor."""
    results = made_results("table1")
    first = with_settings(results.rows[0], {"model.name": "payer"})
    records = {
        seed: [replace(r, floor={m: dict.fromkeys(CLASSES, 0.1) for m in r.floor}) for r in found]
        for seed, found in first.records.items()
    }
    rows = (replace(first, records=records), *results.rows[1:])
    assert set(score_tables(replace(results, rows=rows))[0].rows[-1][2:]) == {"51.0"}


def test_notes_come_from_the_records() -> None:
    results = made_results("table7")
    short = replace(results.rows[1], records={0: results.rows[1].records[0]})
    short = replace(short, reason="failed: no memory.")
    text = "\n".join(notes(replace(results, rows=(results.rows[0], short, *results.rows[2:]))))
    assert "Joint V3 + L_mcr: 1 of 3 seeds. Another failed: no memory." in text
    assert "not found at all: Joint V3 6, Joint V3 + L_mcr 2," in text  # one a modality and seed
    assert "4/4 to train, 0/0 to validate, 4/4 to test; one split for all seeds" in text
    assert "steps 100" in text and "β 0.1 where used" in text
    assert "13 runs, median 1.0 min" in text


def test_every_setting_of_the_losses_that_is_not_the_papers_is_named() -> None:
    """By row, those that a row does not use left out; the rest is said to be the paper's."""
    results = made_results("table7")
    printed = {"loss.tau": 4.0, "loss.mask_absent": False}
    part = "classes absent from an image left out of L_icr yes (the paper: no)"

    def told(*more: dict[str, object]) -> str:
        rows = zip(results.rows, more, strict=True)
        found = notes(replace(results, rows=tuple(with_settings(*row) for row in rows)))
        (text,) = [line for line in found if "the losses" in line]
        return text

    v3, only_mcr, only_icr = {"loss.gamma": 0.0, "loss.beta": 0.0}, {"loss.gamma": 0.0}, printed
    text = told(v3, only_mcr, only_icr, printed, {})
    assert f'not the paper\'s: τ 32 (the paper: 4) in "Ours"; {part} in "Ours". What' in text
    text = told(v3, only_mcr, only_icr, printed, {**printed, "model.maps": "scaled"})
    assert 'semantic-aware maps scaled (the paper: raw) in "Ours".' in text
    classes = {"loss.class_weights": [0.3, 2.0], "loss.dice_background": False, **printed}
    text = told(*[classes] * 5)
    assert "classes 0.3, 2 (the paper: none) in every row; background in the Dice" in text
    assert told(*[printed] * 5) == (
        "Every setting of the losses is the paper's. What the paper leaves open is ours: α, β and "
        "γ, and of cross-entropy and Dice all but their names."
    )
    new = {**printed, "loss.tau": 5.0}
    assert 'τ 5 (the paper: 4) in "Joint V3", "Ours".' in told(new, *[printed] * 3, new)
    curve = "\n".join(notes(made_results("fig5")))
    assert "τ 32" not in curve and part in curve  # what the curve is over is no deviation


def test_where_the_rows_start_is_said() -> None:
    results = made_results("table2")
    papers = "The paper's rows start from ImageNet weights."
    assert f"Every row starts from random weights. {papers}" in notes(results)
    start = {"file": "swin.pth", "layout": "a Swin classifier", "percent": 92.3}
    rows = []
    for result in results.rows:
        own = {} if result.row.name in ("UMMKD", "Ours") else start
        records = {
            s: [replace(r, pretrained=own) for r in found] for s, found in result.records.items()
        }
        rows.append(replace(result, records=records))
    rows[0] = with_settings(rows[0], {"model.name": "ummkd"})
    (told,) = [text for text in notes(replace(results, rows=tuple(rows))) if papers in text]
    assert told == (
        'Start of the training: "Backbone", "Baseline", "Joint V2", "Joint V3", "Ours, as printed" '
        'from swin.pth (a Swin classifier; 92.3 % of encoder and decoder); "Ours" from random '
        f"weights. {papers}"
    )


def test_draws_that_repeat_are_counted() -> None:
    """Ten seeds that draw one of eight cases do not draw ten."""
    results = made_results("draws")
    row = results.rows[0]
    drawn = {0: ["mr_2"], 1: ["mr_0"], 2: ["mr_2"]}
    records = {
        seed: [replace(r, split={**r.split, "train": {**r.split["train"], "mr": drawn[seed]}})]
        for seed, (r,) in row.records.items()
    }
    told = notes(replace(results, rows=(replace(row, records=records),)))
    assert "Few training cases of mr, 1 a seed: 3 seeds, 2 different draws." in told
    assert not any(text.startswith("Few ") for text in notes(made_results("table7")))


def test_networks_of_others_are_not_said_to_have_the_recipe() -> None:
    results = made_results("table1")
    rows = list(results.rows)
    assert [row.row.name for row in rows[:2]] == ["Payer et al.", "UMMKD"]
    own = {"model.name": "payer", "data.spacing_mm": [6.0, 4.5, 4.5], "train.steps": 350}
    for n, other in enumerate((own, {"model.name": "ummkd"})):
        records = {
            seed: [replace(one, settings={**one.settings, **other}) for one in found]
            for seed, found in rows[n].records.items()
        }
        rows[n] = replace(rows[n], records=records)
    told = notes(replace(results, rows=tuple(rows)))
    recipe = next(text for text in told if text.startswith("Recipe"))
    assert "network swin_unet, grid in mm 6 x 3 x 3, steps 100" in recipe
    assert (
        "Payer et al.: a network of its own (docs/comparators.md), with grid in mm 6 x 4.5 x 4.5, "
        "steps 350. Scores on the prepared grid are on that grid."
    ) in told
    assert "UMMKD: a network of its own (docs/comparators.md)." in told


def test_classes_of_the_paper_are_found_under_the_names_of_data_sets() -> None:
    names = {"left_kidney": "L-kdy", "Right Kidney": "R-kdy", "Liver": "Liver",
             "myocardium": "LVM", "ascending aorta": "AA", "pancreas": None}  # fmt: skip
    assert {name: printed_class(name) for name in names} == names


def test_figures_are_pictures_and_repeat_byte_for_byte() -> None:
    for name in ("table5", "fig5"):
        results = made_results(name)
        first = figures(results)
        assert list(first) == [f"{name}.png", f"{name}_curves.png"]
        assert all(png.startswith(b"\x89PNG") and len(png) > 5000 for png in first.values())
        assert figures(results) == first


def with_curve(result: Result, curve: dict[int, dict[str, float]]) -> Result:
    """The same validations in all records, a little higher with every seed."""
    records = {
        seed: [
            replace(
                record,
                curve=[
                    {
                        "step": step,
                        "score": 0.0,
                        "mean": {m: mean[m] + 0.01 * seed for m in record.modalities},
                    }
                    for step, mean in curve.items()
                ],
            )
            for record in own
        ]
        for seed, own in result.records.items()
    }
    return replace(result, records=records)


def test_validation_at_the_end_and_over_the_last_fifth() -> None:
    results = made_results("table5")
    alone, joint = results.rows[0], results.rows[2]
    assert (alone.row.who, joint.row.who) == ("alone", "all")
    rising = {70: {"ct": 0.4, "mr": 0.2}, 80: {"ct": 0.5, "mr": 0.2}, 90: {"ct": 0.9, "mr": 0.9},
              100: {"ct": 0.6, "mr": 0.1}}  # fmt: skip
    found = replace(results, rows=(with_curve(alone, rising), with_curve(joint, {5: rising[70]})))
    (table,) = validation_table(found)
    assert table.head == ("row", "ct", "mr", "ct, last fifth", "mr, last fifth")
    assert table.rows[0] == ("Backbone", "61.0 (1.0)", "11.0 (1.0)", "+10.0 (0.0)", "-10.0 (0.0)")
    assert table.rows[1][1:] == ("41.0 (1.0)", "21.0 (1.0)", "-", "-")  # nothing to compare with
    assert gained({10: 1.0, 20: 2.0, 24: 3.0, 25: 5.0}) == 3.0
    none = replace(found, rows=tuple(with_curve(r, {}) for r in found.rows))
    assert not list(validation_table(none)) and list(figures(none)) == ["table5.png"]
