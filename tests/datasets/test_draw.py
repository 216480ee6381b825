"""Draws of cases, held-out test parts and few-shot: sizes, patients, seeds, refusals."""

from pathlib import Path

import pytest

from toy import toy_config, write_toy
from unpaired.config import DataConfig, load_config
from unpaired.data.cache import open_prepared
from unpaired.datasets.dataset import Case
from unpaired.datasets.make_split import make_split
from unpaired.datasets.split_file import write_splits
from unpaired.errors import DataError, UsageError
from unpaired.files import read_json
from unpaired.run import RunFolder
from unpaired.training.checkpoint import save_checkpoint
from unpaired.training.folds import fold_configs
from unpaired.training.prepare import Preparing, prepare_run

PARTS = ("train", "val", "test")


def scans(modality, count, patients=None, held=()):
    """`count` labelled cases, patients by number; `held` are set aside by the data set."""
    found = []
    for n in range(count):
        name = f"{modality}_{n:02d}"
        patient = name if patients is None else f"p{patients(n)}"
        found.append(Case(name, modality, (Path("x"),), Path("y"), patient, n in held))
    return found


def sizes(split, modality):
    return tuple(len(split.part(part)[modality]) for part in PARTS)


def used(split, modality):
    return {case for part in PARTS for case in split.part(part)[modality]}


ABDOMEN = load_config("abdomen-2d", None, ["data.cases={b=9}"]).data
HEART = load_config("paper-cardiac-2d").data


def abdomen(seed):
    data = ABDOMEN.model_copy(update={"split_seed": seed})
    return make_split(data, {"a": scans("a", 30), "b": scans("b", 20)})


def test_five_draws_of_nine_cases():
    draws = [abdomen(seed) for seed in range(5)]
    for seed, split in enumerate(draws):
        assert sizes(split, "b") == (6, 1, 2) and sizes(split, "a") == (21, 3, 6)
        assert len(used(split, "b")) == 9 and len(used(split, "a")) == 30
        assert split == abdomen(seed)
        assert f"9 of 20 cases drawn by seed {seed}" in split.reasons["b"]
        assert "6/1/2 of 9" in split.reasons["b"] and "drawn" not in split.reasons["a"]
    assert len({frozenset(used(split, "b")) for split in draws}) == 5


def test_draws_are_independent_of_each_other_and_of_the_part():
    """Every case is drawn 9/20 of the time, whatever else was drawn, and then trains 6/9 of it."""
    draws = [abdomen(seed) for seed in range(400)]
    drawn = {n: [f"b_{n:02d}" in used(s, "b") for s in draws] for n in range(20)}
    for times in drawn.values():
        assert 0.45 - 0.125 < sum(times) / 400 < 0.45 + 0.125  # five deviations
    both = sum(a and b for a, b in zip(drawn[3], drawn[4], strict=True)) / 400
    assert 9 / 20 * 8 / 19 - 0.1 < both < 9 / 20 * 8 / 19 + 0.1
    again = sum(a and b for a, b in zip(drawn[3], drawn[3][1:], strict=False)) / 399
    assert 0.2025 - 0.1 < again < 0.2025 + 0.1  # neighbouring seeds have nothing in common
    trained = sum("b_03" in s.train["b"] for s in draws) / sum(drawn[3])
    assert 6 / 9 - 0.18 < trained < 6 / 9 + 0.18


def test_the_draw_of_a_modality_does_not_depend_on_the_others_or_their_order():
    one = make_split(DataConfig(cases={"b": 9}), {"b": scans("b", 20)})
    two = make_split(
        DataConfig(cases={"a": 4, "b": 9}), {"a": scans("a", 9), "b": scans("b", 20)[::-1]}
    )
    assert used(one, "b") == used(two, "b") and len(used(two, "a")) == 4
    numbers = {m: {c[1:] for c in used(two, m)} for m in "ab"}
    assert numbers["a"] != set(sorted(numbers["b"])[:4])


def test_patients_are_drawn_whole_and_stay_in_one_part():
    cases = {"a": scans("a", 20, lambda n: n // 2), "b": scans("b", 20, lambda n: n // 4)}
    for seed in range(30):
        split = make_split(DataConfig(cases={"a": 8, "b": 9}, split_seed=seed), cases)
        where: dict[str, set[str]] = {}
        for part in PARTS:
            for m in "ab":
                for case in split.part(part)[m]:
                    patient = next(c.patient for c in cases[m] if c.id == case)
                    where.setdefault(patient, set()).add(part)
        assert all(len(parts) == 1 for parts in where.values())
        assert len({int(c[2:]) // 2 for c in used(split, "a")}) == 4  # four patients of two scans
        assert len({int(c[2:]) // 4 for c in used(split, "b")}) == 3  # 4 + 4 + 1 of 4
        assert len(used(split, "b")) == 9


def literature(seed=0, **more):
    cases = {"a": scans("a", 20, held=(3, 8, 14, 19)), "b": scans("b", 20, held=(7, 9, 18, 19))}
    return make_split(HEART.model_copy(update={"split_seed": seed, **more}), cases)


def test_the_literatures_test_cases_leave_fourteen_and_two_by_seed():
    found = [literature(seed) for seed in range(6)]
    for split in found:
        assert sizes(split, "a") == sizes(split, "b") == (14, 2, 4)
        assert set(split.test["a"]) == {"a_03", "a_08", "a_14", "a_19"}
        assert set(split.test["b"]) == {"b_07", "b_09", "b_18", "b_19"}
        assert len(used(split, "a")) == 20
        assert "4 more that the data set holds out" in split.reasons["a"]
    assert len({split.val["a"] for split in found}) > 3
    assert literature(3) == literature(3)


def test_without_held_out_cases_the_cardiac_shares_are_fourteen_two_four():
    options = load_config("paper-cardiac-2d").data
    assert sizes(make_split(options, {"a": scans("a", 20)}), "a") == (14, 2, 4)


def test_held_out_cases_are_neither_drawn_nor_counted():
    split = literature(1, cases={"b": 8})
    assert sizes(split, "b") == (7, 1, 4) and sizes(split, "a") == (14, 2, 4)
    with pytest.raises(UsageError, match=r"asks for 17 cases of b, but 16 can be drawn"):
        literature(1, cases={"b": 17})


@pytest.mark.parametrize("count", [1, 3])
def test_few_shot_leaves_the_other_parts_as_they_are(count):
    whole = literature(2)
    few = [literature(2, few_shot={"b": count}, few_shot_seed=seed) for seed in range(12)]
    for split in few:
        assert len(split.train["b"]) == count and set(split.train["b"]) < set(whole.train["b"])
        assert split.train["a"] == whole.train["a"]
        assert split.val == whole.val and split.test == whole.test
        assert f"Few-shot: {count} of the 14" in split.reasons["b"]
        assert "Few-shot" not in split.reasons["a"]
    assert len({split.train["b"] for split in few}) > 4
    assert few[3] == literature(2, few_shot={"b": count}, few_shot_seed=3)


def test_few_shot_of_a_given_file(tmp_path):
    cases = {"a": scans("a", 10), "b": scans("b", 10)}
    whole = make_split(DataConfig(), cases)
    write_splits(tmp_path / "s.json", [whole, whole])
    options = DataConfig(splits=str(tmp_path / "s.json"), fold=1, few_shot={"a": 2})
    split = make_split(options, cases)
    assert len(split.train["a"]) == 2 and split.train["b"] == whole.train["b"]
    assert "Fold 1 of s.json" in split.reasons["b"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cases": {"c": 3}}, r"data\.cases names 'c', but the data are a, bb"),
        ({"few_shot": {"b": 3}}, r"data\.few_shot names 'b'.*Did you mean 'bb'"),
        ({"cases": {"a": 11}}, r"asks for 11 cases of a, but 10 can be drawn"),
        ({"few_shot": {"a": 8}}, r"cannot draw 8 of the 7 training cases of 'a' \(data\.few_shot"),
        ({"cases": {"a": 5}, "splits": "s.json"}, r"data\.splits names the cases"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        make_split(DataConfig(**options), {"a": scans("a", 10), "bb": scans("bb", 10)})


def test_a_modality_with_nothing_left_to_train_on():
    with pytest.raises(DataError, match="no training case of a"):
        make_split(DataConfig(), {"a": scans("a", 2, held=(0, 1))})


def test_keys_from_the_command_line(tmp_path):
    file = tmp_path / "five.toml"
    file.write_text("[data]\ncases = {mr = 9}\nfew_shot = {mr = 1}\nfew_shot_seed = 2\n")
    from_file = load_config(None, file).data
    typed = ["data.cases.mr=9", "data.few_shot={mr=1}", "few_shot_seed=2"]
    assert load_config(None, None, typed).data == from_file
    assert (from_file.cases, from_file.few_shot, from_file.few_shot_seed) == (
        {"mr": 9}, {"mr": 1}, 2,
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"data\.cases"):
        load_config(None, None, ["data.cases.mr=0"])


# --- runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    return {
        "a": write_toy(root, "a", 4, True, (1, 2)),
        "bb": write_toy(root, "bb", 7, False, (7, 3)),
    }


def test_draws_share_one_folder_of_prepared_cases(data, tmp_path):
    """The second run must not take the first one's cases out of the index."""
    shared, runs, inside = tmp_path / "prepared", [], set()
    for seed in range(3):
        folder = RunFolder(tmp_path / f"run{seed}")
        config = toy_config("data.cases={bb=4}", f"data.split_seed={seed}")
        prepare_run(config, data, folder, Preparing(shared))
        runs.append(folder)
    assert len(list(shared.iterdir())) == 1
    for folder in runs:
        setup = folder
        cases = {c.id for part in PARTS for c in setup.prepared_cases(part)["bb"]}
        assert len(cases) == 4
        assert "drawn by seed" in read_json(folder.files.plan)["reasons"]["split.bb"]
        inside |= cases
    (cache,) = shared.iterdir()
    assert {c.id for c in open_prepared(cache).cases["bb"]} == inside
    assert 4 < len(inside) <= 7


def test_a_run_with_draws_goes_on_and_refuses_another_draw(data, tmp_path):
    draws = ["data.cases={bb=5}", "data.few_shot={bb=1}", "data.few_shot_seed=4"]
    folder = RunFolder(tmp_path)
    prepare_run(toy_config(*draws), data, folder)
    save_checkpoint(folder.files.last, {"model": {}, "step": 1})  # from here on it goes on
    before = {
        path: path.read_bytes()
        for path in (folder.files.splits, folder.files.plan, folder.files.data)
    }
    (split,) = read_json(folder.files.splits)
    assert sum(case.startswith("bb/") for case in split["train"]) == 1
    for other in ("data.few_shot_seed=5", "data.few_shot={bb=2}", "data.cases={bb=6}"):
        with pytest.raises(UsageError, match=other.split("=")[0].replace(".", r"\.")):
            prepare_run(toy_config(*draws, other), data, folder)
    prepare_run(toy_config(*draws), data, folder)
    assert {path: path.read_bytes() for path in before} == before
    assert [len(one.id) for one in folder.prepared_cases("train")["bb"]] == [5]
    # The record of the data names every case, so that other data are known as such.
    assert len(read_json(folder.files.data)["modalities"]["bb"]["cases"]) == 7


def test_folds_of_drawn_cases(data, tmp_path):
    config = toy_config("data.cases={bb=6}", "data.few_shot={bb=2}")
    found = fold_configs(config, data, tmp_path / "out", 2)
    for one in found.values():
        assert one.data.cases == {} and one.data.few_shot == {"bb": 2}
        parts = read_json(Path(one.data.splits))[one.data.fold]
        assert sum(c.startswith("bb/") for part in PARTS for c in parts[part]) == 6
    one = found["fold_1"]
    prepare_run(one, data, RunFolder(tmp_path / "out" / "fold_1"))
    (split,) = read_json(tmp_path / "out" / "fold_1" / "splits_final.json")
    assert sum(c.startswith("bb/") for c in split["train"]) == 2
