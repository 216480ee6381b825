"""What is usual, and what is odd."""

import numpy as np
import pytest

from unpaired.plausibility.expected import (
    Expected,
    calibrate,
    deviations,
    displacement,
    gather,
    usual,
)
from unpaired.plausibility.judge import Measured, Plausibility, judge
from unpaired.plausibility.measure import EDGE, INTENSITY, ML, PIECES, PLACE, Measures, absent

NAMES = ("spleen", "kidney", "liver")
CENTRES = np.array([[10.0, 20, 80], [-20, 40, 50], [0, -10, -60]])
VOLUMES = np.array([200.0, 150, 1500])
SIZE = np.array([300.0, 300, 400])


def case(seed: int, shift: object = 0.0) -> Measures:
    """A sound one; its field of view begins `shift` mm later."""
    rng = np.random.default_rng([7, seed])
    rows = absent(3, 1)
    rows[:, ML] = VOLUMES * np.exp(rng.normal(0, 0.2, 3))
    rows[:, PIECES], rows[:, EDGE] = 1, 0
    rows[:, PLACE] = CENTRES + rng.normal(0, 4, (3, 3)) - shift
    rows[:, INTENSITY] = np.array([[0.5], [1.5], [-0.2]]) + rng.normal(0, 0.1, (3, 1))
    return Measures(
        rows,
        np.array([5.0, 1, 1]) * rng.uniform(0.95, 1.05),
        SIZE * rng.uniform(0.95, 1.05, 3),
        np.array([[-0.5, 0.1, 0.8]]) + rng.normal(0, 0.05, (1, 3)),
    )


def expected(cases: int = 12) -> Expected:
    found = gather([case(n, [20.0 * (n % 3 - 1), 0, 0]) for n in range(cases)], 5.0)
    assert found is not None
    return found


def odd(one: Measures, known: Expected, agreement: list[float] | None = None) -> dict[str, str]:
    """About and measure -> what is said, of what is odd."""
    return {f"{m.about} {m.measure}": m.says for m in judge(one, known, NAMES, agreement) if m.odd}


def test_sound_cases_are_not_odd() -> None:
    known = expected()
    for n in range(100, 140):
        assert odd(case(n), known) == {}


def test_the_recipe_a_liver_of_322_voxels() -> None:
    one = case(50)
    one.classes[2, ML] = 322 * 0.01
    said = odd(one, expected())
    assert list(said) == ["liver volume_ml"]
    assert said["liver volume_ml"].startswith("liver has 3.2 ml (usually ")


@pytest.mark.parametrize(
    ("column", "value", "name", "words"),
    [
        (PIECES, 7, "pieces", "liver is in 7 pieces (usually up to "),
        (INTENSITY, 1.5, "intensity", "liver is brighter than usual (prepared 1.5, usually -"),
        (INTENSITY, -2, "intensity", "liver is darker than usual (prepared -2, usually -"),
        (PLACE, (0, -10, 60), "position_mm", "mm off its place (usually up to "),
        (ML, 9000, "volume_ml", "liver has 9,000 ml (usually "),
    ],
)
def test_each_measure_is_said(column, value, name: str, words: str) -> None:
    one = case(51)
    one.classes[2, column] = value
    said = odd(one, expected())
    assert list(said) == [f"liver {name}"] and words in said[f"liver {name}"]


def test_of_the_scan() -> None:
    for change, name in (
        ({"spacing_mm": np.array([5.0, 1, 3])}, "scan spacing_mm of columns"),
        ({"extent_mm": SIZE * [1, 1, 0.3]}, "scan extent_mm of columns"),
    ):
        assert list(odd(Measures(**{**vars(case(52)), **change}), expected())) == [name]
    dark = Measures(**{**vars(case(52)), "levels": np.array([[-2.0, -1.5, -1.0]])})
    found = odd(dark, expected())
    assert len(found) == 3 and len([text for text in found.values() if text]) == 1, "said once"


def test_a_missing_class_is_odd_unless_the_scan_cannot_hold_it() -> None:
    one, known = case(53), expected()
    one.classes[2] = absent(1, 1)[0]
    assert odd(one, known)["liver volume_ml"].startswith("liver is missing (usually ")
    low = Measures(**{**vars(one), "extent_mm": SIZE * [1, 1, 0.25]})
    wide = known.model_copy(update={"limits": {**known.limits, "extent": 99.0}})
    assert odd(low, wide) == {}
    (said,) = [m.says for m in judge(low, wide, NAMES) if m.says]
    assert said == "liver was not found: it would lie outside of the scan"


def test_a_class_that_some_cases_lack_is_not_missed() -> None:
    cases = [case(n) for n in range(12)]
    for one in cases[:3]:
        one.classes[2] = absent(1, 1)[0]
    known = gather(cases, 5.0)
    assert known is not None and known.classes[3].share == 0.75
    one = case(54)
    one.classes[2] = absent(1, 1)[0]
    assert odd(one, known) == {}


def test_a_class_that_the_edge_cuts_may_be_small() -> None:
    one, known = case(55), expected()
    one.classes[2, ML], one.classes[2, EDGE] = 100, 1
    assert list(odd(one, known)) == ["liver volume_ml"], "the scan is as large as others"
    one = Measures(**{**vars(one), "extent_mm": SIZE * [1, 1, 0.7]})
    assert odd(one, known) == {}
    assert [m.says for m in judge(one, known, NAMES) if m.says] == [
        f"liver has 100 ml {_range(known)}: the edge of the scan cuts it"
    ]
    always = [case(n) for n in range(12)]
    for each in always:
        each.classes[2, EDGE] = 1
    usual_cut = gather(always, 5.0)
    assert usual_cut is not None and list(odd(one, usual_cut)) == ["liver volume_ml"]


def _range(known: Expected) -> str:
    low, high = np.exp(known.classes[3].log_ml.within(known.limits["volume"]))
    return f"(usually {low:,.0f} to {high:,.0f} ml)"


def test_places_do_not_depend_on_the_field_of_view() -> None:
    """Every class moved alike is a scan that begins elsewhere; one moved alone is found, and does
    not make the others odd."""
    known, shift = expected(), np.array([90.0, -40, 25])
    off = displacement(case(60), known)
    np.testing.assert_allclose(displacement(case(60, shift), known), off, atol=12)
    moved = case(60)
    moved.classes[0, PLACE] += [0, 0, -120]
    found = displacement(moved, known)
    assert found[0, 2] < -100 and np.abs(found[1:]).max() < 30


def test_a_single_class_is_laid_on_the_scan() -> None:
    def one(n: int) -> Measures:
        full = case(n)
        return Measures(**{**vars(full), "classes": full.classes[:1]})

    known = gather([one(n) for n in range(10)], 5.0)
    assert known is not None
    far = one(20)
    far.classes[0, PLACE] += [0, 0, 100]
    assert displacement(far, known)[0, 2] > 80


def test_few_cases_have_wide_limits_as_students_law() -> None:
    """Of normal samples, a further value lies beyond three deviations about as rarely as it does
    of many; and of two cases hardly anything is odd."""
    rng = np.random.default_rng(0)
    for n in (3, 4, 8, 30):
        beyond = np.mean(
            [abs(usual(x[1:], 1e-9).deviation(x[0])) > 3 for x in rng.normal(size=(1500, n + 1))]
        )
        assert beyond < 0.05, n
    assert usual(np.array([1.0, 1.2]), 0.0).spread > 5
    assert gather([case(0)], 5.0) is None
    pair = gather([case(0), case(1)], 5.0)
    one = case(2)
    one.classes[:, ML] *= 20
    assert pair is not None and odd(one, pair) == {}


def test_limits_are_those_that_validation_cases_keep() -> None:
    known = expected()
    found = [case(n) for n in range(200, 204)]
    found[1].classes[2, ML] *= 5  # a sound result of Dice 0.6, as this network makes them
    found[2].classes[1, PIECES] = 30  # a failed one
    dice = [np.array([0.9, 0.9, 0.9]), np.array([0.8, 0.9, 0.6]), np.array([0.7, 0.2, 0.9])]
    dice.append(np.full(3, np.nan))
    limits = calibrate(known, found, dice)
    assert limits.validated == 4
    own = abs(deviations(found[1], known)["volume"][2])
    assert limits.limits["volume"] == pytest.approx(own * 2, rel=0.1), "1 + 3 / 3 cases"
    assert limits.limits["pieces"] == 3
    assert [limits.classes[z].agreement for z in (1, 2, 3)] == pytest.approx([0.63, 0.81, 0.54])
    assert calibrate(known, [], []) == known and known.limits["volume"] == 5


def test_an_ensemble_that_disagrees() -> None:
    said = odd(case(70), expected(), [0.9, 0.3, float("nan")])
    words = "the models disagree on kidney (Dice 0.30, usually above 0.60)"
    assert said == {"kidney agreement": words}


def test_a_line_has_what_is_odd_first_and_an_end() -> None:
    made = [Measured("a", "x", 1.0, says="remark")]
    assert Plausibility("mr", True, tuple(made)).line == "remark"
    assert not Plausibility("mr", True, tuple(made)).odd
    made += [Measured("a", "y", 1.0, odd=True, says=f"odd {n}") for n in range(5)]
    found = Plausibility("mr", True, tuple(made))
    assert found.odd and found.line == "odd 0; odd 1; odd 2; odd 3; and 2 more"


def test_a_model_keeps_it_as_json() -> None:
    known = expected()
    assert Expected.model_validate_json(known.model_dump_json(), strict=True) == known
    assert len(known.model_dump_json()) < 4000
