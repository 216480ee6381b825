"""Which candidate is chosen, by hand-made scores."""

import math
from pathlib import Path

import numpy as np
import pytest

from unpaired.evaluation.best import Best, Candidate, behind_by, choose


def candidate(name: str, flops: float, **dice: list[float]) -> Candidate:
    cases = {(m, f"c{n}"): d for m, values in dice.items() for n, d in enumerate(values)}
    return Candidate(name, (Path(name),), flops, cases)


def test_modalities_count_alike_and_so_do_their_cases() -> None:
    one = candidate("a", 1.0, ct=[0.8, 0.9, 1.0], mr=[0.5])
    assert one.by_modality == {"ct": pytest.approx(0.9), "mr": 0.5}
    assert one.mean == pytest.approx(0.7)


def test_the_spread_is_that_of_the_difference_case_by_case() -> None:
    a = candidate("a", 1.0, ct=[0.9, 0.5, 0.7], mr=[0.8, 0.6])
    b = candidate("b", 1.0, ct=[0.8, 0.4, 0.6], mr=[0.8, 0.4])
    behind, spread = behind_by(a, b)
    assert behind == pytest.approx((0.1 + 0.1) / 2)
    by_hand = [[0.1, 0.1, 0.1], [0.0, 0.2]]
    errors = [np.std(d, ddof=1) / math.sqrt(len(d)) for d in by_hand]
    assert spread == pytest.approx(math.hypot(*errors) / 2)


def test_within_the_spread_the_cheapest_is_chosen_and_else_the_best() -> None:
    best = candidate("best", 100.0, ct=[0.90, 0.80, 0.70])
    near = candidate("near", 50.0, ct=[0.94, 0.70, 0.72])
    cheap = candidate("cheap", 10.0, ct=[0.80, 0.70, 0.61])
    assert behind_by(best, near)[0] < behind_by(best, near)[1]
    assert behind_by(best, cheap)[0] > behind_by(best, cheap)[1]
    assert choose([best, near, cheap]) is near
    assert choose([best, cheap]) is best
    dearer = candidate("near", 500.0, ct=[0.94, 0.70, 0.72])
    assert choose([best, dearer, cheap]) is best


def test_a_single_case_has_no_spread_so_the_best_stays() -> None:
    best, near = candidate("best", 9.0, ct=[0.9]), candidate("near", 1.0, ct=[0.899])
    assert choose([best, near]) is best
    assert choose([best, candidate("equal", 1.0, ct=[0.9])]).name == "equal"


def test_the_reason_says_what_is_given_up_and_what_is_saved() -> None:
    best = candidate("both", 100.0, ct=[0.90, 0.80, 0.70])
    near = candidate("2d", 50.0, ct=[0.94, 0.70, 0.72])
    found = Best((best, near), near, (), Path("best.json"))
    assert found.sentence == (
        "2d is chosen: on 3 cases held out it is 1.3 points behind both, no more than the spread "
        "of that difference (4.4), at 50 % of the cost."
    )
    assert "| 2d | 78.7 | 78.7 | 1.3 | 4.4 | 5e-11 | chosen |" in repr(found)
    alone = Best((best, near), best, (), Path("best.json"))
    assert alone.sentence == "both is the best on 3 cases held out: 80.0 % mean Dice."
