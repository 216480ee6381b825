"""The laws of a split: disjoint, complete, by patient, with the promised counts."""

import json
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unpaired.datasets.split import few_shot, k_folds, random_split
from unpaired.datasets.split_file import Split, read_splits, write_splits
from unpaired.errors import DataError, UsageError


@dataclass(frozen=True)
class One:
    id: str
    patient: str


def alone(count, prefix="p"):
    return [One(f"{prefix}{i:03d}", f"{prefix}{i:03d}") for i in range(count)]


def counts(split, modality):
    return tuple(len(split.part(part)[modality]) for part in ("train", "val", "test"))


def check_laws(cases, parts):
    """Every case in exactly one part, no patient in two."""
    home = {}
    for modality, found in cases.items():
        dealt = [case for part in parts for case in part[modality]]
        assert Counter(dealt) == Counter(case.id for case in found)
    for number, part in enumerate(parts):
        for modality, found in cases.items():
            for case in found:
                if case.id in part[modality]:
                    assert home.setdefault(case.patient, number) == number


def parts_of(split):
    return [split.train, split.val, split.test]


# Patients with up to 3 cases in each of up to 3 modalities, some shared.
worlds = st.dictionaries(
    st.sampled_from(["ct", "mr", "us"]),
    st.dictionaries(st.integers(0, 25), st.integers(1, 3), max_size=20),
    min_size=1,
).map(
    lambda world: {
        m: [One(f"{m}{p}_{i}", f"p{p}") for p, n in patients.items() for i in range(n)]
        for m, patients in world.items()
    }
)


@settings(deadline=None, max_examples=150)
@given(worlds, st.integers(0, 5))
def test_random_split_deals_every_case_once_and_parts_no_patient(cases, seed):
    check_laws(cases, parts_of(random_split(cases, seed=seed)))


@settings(deadline=None, max_examples=100)
@given(worlds, st.integers(2, 4), st.integers(0, 5))
def test_folds_cover_every_case_once_and_part_no_patient(cases, k, seed):
    if min(len({case.patient for case in found}) for found in cases.values()) < k:
        with pytest.raises(DataError, match="too few"):
            k_folds(cases, k, seed)
        return
    folds = k_folds(cases, k, seed)
    check_laws(cases, [fold.val for fold in folds])
    for fold in folds:
        check_laws(cases, parts_of(fold))


@settings(deadline=None, max_examples=100)
@given(st.integers(3, 60), st.integers(3, 60), st.integers(0, 9))
def test_counts_are_within_one_of_the_fractions(n, m, seed):
    split = random_split({"a": alone(n, "a"), "b": alone(m, "b")}, seed=seed)
    for modality, total in (("a", n), ("b", m)):
        found = counts(split, modality)
        assert sum(found) == total and min(found) >= 1
        for have, fraction in zip(found, (0.7, 0.1, 0.2), strict=True):
            # Small sets give a case to validation and test at the cost of training.
            assert abs(have - total * fraction) < (1 if total >= 10 else 2)


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (9, (6, 1, 2)), (30, (21, 3, 6)), (20, (14, 2, 4)), (10, (7, 1, 2)), (45, (32, 4, 9)),
        (4, (2, 1, 1)), (3, (1, 1, 1)), (2, (1, 0, 1)), (1, (1, 0, 0)),
    ],
)  # fmt: skip
def test_counts_of_the_protocols_and_of_small_sets(total, expected):
    assert counts(random_split({"x": alone(total)}), "x") == expected


def test_other_fractions():
    assert counts(random_split({"x": alone(10)}, (0.8, 0.2, 0.0)), "x") == (8, 2, 0)
    assert counts(random_split({"x": alone(2)}, (0.8, 0.2, 0.0)), "x") == (1, 1, 0)
    assert counts(random_split({"x": alone(5)}, (1.0, 0.0, 0.0)), "x") == (5, 0, 0)
    with pytest.raises(UsageError, match="seed of a split is -1"):
        random_split({"x": alone(5)}, seed=-1)
    for wrong in ((0.7, 0.1, 0.1), (0.0, 0.5, 0.5), (1.2, -0.2, 0.0)):
        with pytest.raises(UsageError, match="add up to 1"):
            random_split({"x": alone(5)}, wrong)


def test_small_sets_say_what_is_missing():
    reasons = random_split({"one": alone(1, "a"), "two": alone(2, "b"), "ten": alone(10)}).reasons
    assert "nothing left" in reasons["one"] and "no validation part" in reasons["two"]
    assert reasons["ten"] == "7/1/2 of 10 cases (70/10/20 %, by patient)."


@pytest.mark.parametrize("seed", range(25))
def test_shared_patients_keep_the_exact_counts(seed):
    ct, mr = alone(30), [*alone(9), *alone(11, "m")]  # 9 patients have both
    split = random_split({"ct": ct, "mr": mr}, seed=seed)
    assert counts(split, "ct") == (21, 3, 6) and counts(split, "mr") == (14, 2, 4)
    for part in parts_of(split):
        shared = {case.id for case in mr[:9]}
        assert set(part["mr"]) & shared == set(part["ct"]) & shared
    # A patient of four cases fits into training or, exactly, into testing.
    many = [One(f"big{i}", "big") for i in range(4)] + alone(16)
    assert counts(random_split({"x": many}, seed=seed), "x") == (14, 2, 4)


def test_order_of_cases_and_modalities_does_not_matter_but_the_seed_does():
    ct, mr = alone(20, "c"), alone(12, "m")
    first = random_split({"ct": ct, "mr": mr}, seed=1)
    second = random_split({"mr": mr[::-1], "ct": ct[::-1]}, seed=1)
    assert parts_of(first) == parts_of(second)
    draws = {random_split({"ct": ct}, seed=seed).test["ct"] for seed in range(20)}
    assert len(draws) > 15


def test_every_case_is_tested_equally_often():
    tested = Counter(
        case for seed in range(400) for case in random_split({"x": alone(10)}, seed=seed).test["x"]
    )
    # 80 expected, deviation 8: five deviations.
    assert len(tested) == 10 and all(40 < n < 120 for n in tested.values())


def test_folds_with_a_fixed_test_part():
    cases = {"ct": alone(12), "mr": alone(8, "m")}
    folds = k_folds(cases, 4, test={"ct": ("p000", "p001")})
    check_laws({"ct": alone(12)[2:], "mr": cases["mr"]}, [fold.val for fold in folds])
    assert all(fold.test == {"ct": ("p000", "p001"), "mr": ()} for fold in folds)
    assert sorted(len(fold.val["ct"]) for fold in folds) == [2, 2, 3, 3]
    pair = {"ct": [One("a", "p"), One("b", "p"), *alone(5)]}
    with pytest.raises(DataError, match="ct/b is of a patient in the test part"):
        k_folds(pair, 2, test={"ct": ("a",)})
    with pytest.raises(UsageError, match="2 or more"):
        k_folds(cases, 1)


def test_same_id_twice_is_refused():
    for draw in (random_split, lambda cases: k_folds(cases, 2)):
        with pytest.raises(DataError, match="'a' twice"):
            draw({"ct": [One("a", "p"), One("a", "q"), One("b", "r")]})


def test_few_shot_keeps_the_rest():
    split = random_split({"ct": alone(20, "c"), "mr": alone(20, "m")})
    few = few_shot(split, "mr", 3, seed=1)
    assert len(few.train["mr"]) == 3 and set(few.train["mr"]) < set(split.train["mr"])
    assert few.train["ct"] == split.train["ct"]
    assert (few.val, few.test) == (split.val, split.test)
    assert len({few_shot(split, "mr", 3, seed=seed).train["mr"] for seed in range(10)}) > 5
    for wrong in (0, 15):
        with pytest.raises(UsageError, match=f"cannot draw {wrong} of the 14"):
            few_shot(split, "mr", wrong)


# --- files


@settings(deadline=None, max_examples=50)
@given(worlds, st.integers(0, 5))
def test_written_splits_are_read_back(tmp_path_factory, cases, seed):
    path = tmp_path_factory.mktemp("splits") / "splits_final.json"
    splits = [random_split(cases, seed=seed), random_split(cases, seed=seed + 1)]
    write_splits(path, splits)
    found = read_splits(path, cases)
    assert [parts_of(split) for split in found] == [parts_of(split) for split in splits]


def read(tmp_path, entries, cases):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(entries))
    return read_splits(path, cases)


PAIR = {"ct": [One("a", "a"), One("b", "b"), One("x", "q")], "mr": [One("a", "a"), One("c", "q")]}


def test_plain_nnunet_ids(tmp_path):
    found = read(tmp_path, [{"train": ["b"], "val": ["c"]}], PAIR)
    assert found == [
        Split({"ct": ("b",), "mr": ()}, {"ct": (), "mr": ("c",)}, {"ct": (), "mr": ()})
    ]


def test_a_run_on_one_modality_takes_the_file_of_a_joint_run(tmp_path):
    entry = {"train": ["ct/x", "mr/c"], "val": ["ct/b", "t1/z"], "test": ["ct/a", "mr/a"]}
    for own, other in (("ct", "mr"), ("mr", "ct")):
        (found,) = read(tmp_path, [entry], {own: PAIR[own]})
        (both,) = read(tmp_path, [{**entry, "val": ["ct/b"]}], PAIR)
        for part in ("train", "val", "test"):
            assert found.part(part) == {own: both.part(part)[own]}
            assert other not in found.part(part)
    for slip in ("MR/c", "mr/cc", "nonsense"):
        with pytest.raises(DataError, match=f"no case '{slip}'"):
            read(tmp_path, [{**entry, "train": ["ct/x", slip]}], {"mr": PAIR["mr"]})


def test_ids_that_hold_a_slash(tmp_path):
    cases = {"ct": [One("day/1", "p")]}
    assert read(tmp_path, [{"train": ["day/1"], "val": []}], cases)[0].train["ct"] == ("day/1",)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"train": ["a"], "val": []}, 'write "ct/a" or "mr/a"'),
        ({"train": ["ct/bb"], "val": []}, "Did you mean 'ct/b'"),
        ({"train": ["us/b"], "val": []}, "no case 'us/b'"),
        ({"train": ["b"], "val": ["ct/b"]}, r"'ct/b' is named twice \(train, val\)"),
        ({"train": ["b", "b"], "val": []}, r"named twice \(train, train\)"),
        ({"train": ["ct/a"], "val": ["b"], "test": ["mr/a"]}, "of one patient"),
        ({"train": ["x"], "val": ["c"]}, r"'x' \(train\) and 'c' \(val\) are of one patient"),
        ({"train": ["b"]}, '"train" and "val"'),
        ({"train": [], "val": [], "tests": []}, '"train" and "val"'),
        ({"train": "b", "val": []}, "'train' must be a list"),
        ({"train": [1], "val": []}, "'train' must be a list"),
        (["b"], '"train" and "val"'),
    ],
)
def test_faulty_files_are_refused(tmp_path, entry, words):
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path, [{"train": ["b"], "val": ["x"]}, entry], PAIR)
    assert "splits_final.json, fold 1" in str(caught.value)


@pytest.mark.parametrize("entries", [{}, [], "x"])
def test_files_without_folds_are_refused(tmp_path, entries):
    with pytest.raises(DataError, match="one entry a fold"):
        read(tmp_path, entries, PAIR)
