"""A thousand damaged inputs: read as they are, or refused in a sentence; and that this would show.

`benchmarks/fuzz.py` reads ten thousand others.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import judge as judging
from fuzzing.judge import GOOD, MEMORY, NAMELESS, REFUSED, SILENT, TRACEBACK, TRUE, judge
from fuzzing.plain import plain
from fuzzing.run import KINDS, Bench
from fuzzing.seeds import IMAGES, PACKED, make, write
from unpaired.cli.app import run as unpaired
from unpaired.errors import DataError
from unpaired.io.read import read_image

PER_KIND, SEED = 40, 1


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "work").mkdir()
    return Bench(tmp_path / "work", SEED)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_read_truly_or_refused(bench, kind):
    """Numbers of the kind; see a bad one by `python benchmarks/fuzz.py --seed 1 --only NUMBER`."""
    first, verdicts = KINDS.index(kind), []
    for number in range(first, first + len(KINDS) * PER_KIND, len(KINDS)):
        _, how, outcome = bench.run(number)
        assert outcome.verdict in GOOD, (number, how, outcome)
        verdicts.append(outcome.verdict)
    assert verdicts.count(REFUSED) > PER_KIND // 4


@settings(
    deadline=None, max_examples=70, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(KINDS),
    edits=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=4),
    keep=st.one_of(st.none(), st.integers(0, 3000)),
)
def test_any_bytes_in_any_place(kind, edits, keep):
    """Drawn by hypothesis, which makes a bad input small."""
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        seed, truth = bench._seed(kind, False)
        files, first = dict(seed.files), seed.damaged[edits[0][0] % len(seed.damaged)]
        data = bytearray(files[first])
        for at, value in edits:
            data[at % len(data)] = value
        files[first] = bytes(data[:keep])
        target = write(type(seed)(kind, files, seed.target, seed.damaged, 0), Path(name))
        target = target / "series" if kind.startswith("dicom") else target
        how = "cut" if keep is not None and keep < len(data) else "bytes"
        if how == "cut" and files[first] != seed.files[first][:keep]:
            how = "cut and changed"
        outcome = judge(seed, truth, target, how, 1 << 20)
        assert outcome.verdict in GOOD, outcome


@pytest.mark.parametrize("kind", [k for k in IMAGES if k not in ("nhdr", "mhd")])
def test_the_command_says_what_is_wrong_and_exits_with_3(bench, capsys, kind):
    first, seen = KINDS.index(kind), 0
    for number in range(first, 40 * len(KINDS), len(KINDS)):
        if bench.run(number)[2].verdict != REFUSED:
            continue
        target = bench.folder / "series" if kind.startswith("dicom") else None
        target = target or next(p for p in bench.folder.iterdir() if p.name.startswith("scan"))
        assert unpaired(["check", str(target), "--json"]) == 3, number
        said = capsys.readouterr()
        found = json.loads(said.out)
        assert "Traceback" not in said.err and "Warning" not in said.err
        assert any(f["severity"] == "error" for f in found)
        assert not [f for f in found if f["kind"] == "fault"], (number, found)
        seen += 1
        if seen == 3:
            return
    raise AssertionError("fewer than three were refused")


@pytest.mark.parametrize("kind", ["manifest", "manifest-json", "dataset-json", "toml"])
def test_the_command_refuses_damaged_texts(bench, capsys, kind):
    codes = []
    for number in range(KINDS.index(kind), 8 * len(KINDS), len(KINDS)):
        if bench.run(number)[2].verdict != REFUSED:
            continue
        root = bench.folder / "scans.csv" if kind.startswith("man") else bench.folder
        more = ["--data", f"ct={root}"]
        if kind == "toml":
            true = make("nii", bench.folder / "true")
            more = [str(write(true, bench.folder)), "--config", str(bench.folder / "run.toml")]
        codes.append(unpaired(["check", *more]))
        assert "Traceback" not in capsys.readouterr().err
    assert len(codes) > 3 and set(codes) == {2 if kind == "toml" else 3}


# ---- the judge itself


@pytest.mark.parametrize("kind", IMAGES)
def test_the_plain_readers_agree_on_true_files(tmp_path, kind):
    target = write(make(kind, tmp_path / "made"), tmp_path / "true")
    if kind.startswith("dicom"):
        assert judging._as_slices_say(read_image(target / "series"))
        return
    voxels, affine = plain(target)
    volume = read_image(target)
    assert np.array_equal(volume.array, voxels)
    assert np.abs(volume.affine - affine).max() < 1e-5


def outcomes(tmp_path, monkeypatch, reader, kind="nii"):
    seed = make(kind, tmp_path / "made")
    target = write(seed, tmp_path / "true")
    truth = read_image(target)
    monkeypatch.setattr(judging, "read_image", reader)
    return judge(seed, truth, target, "bits", 1 << 20).verdict


def test_a_reader_that_errs_is_caught(tmp_path, monkeypatch):
    def changed(path):
        volume = read_image(path)
        volume.array[0, 0, 0] += 1
        return volume

    def moved(path):
        volume = read_image(path)
        volume.affine[0, 3] += 0.1
        return volume

    def nameless(path):
        raise DataError("it is damaged.")

    def greedy(path):
        np.zeros(40 << 20, np.uint8)
        return read_image(path)

    def fails(path):
        raise KeyError(path)

    expected = {
        changed: SILENT,
        moved: SILENT,
        nameless: NAMELESS,
        greedy: MEMORY,
        fails: TRACEBACK,
    }
    for reader, verdict in {**expected, read_image: TRUE}.items():
        assert outcomes(tmp_path / reader.__name__, monkeypatch, reader) == verdict


@pytest.mark.parametrize("kind", PACKED)
def test_a_reader_that_verifies_no_checksum_is_caught(tmp_path, monkeypatch, kind):
    """The true voxels, given in spite of a broken checksum, are a silent accept too."""
    seed = make(kind, tmp_path / "made")
    target = write(seed, tmp_path / "true")
    truth = read_image(target)
    data = bytearray(target.read_bytes())
    data[-6 if kind != "mha-zlib" else -2] ^= 1
    target.write_bytes(data)
    monkeypatch.setattr(judging, "read_image", lambda path: truth)
    assert judge(seed, truth, target, "bits", 1 << 20).verdict == SILENT


def test_the_benchmark_survives_a_worker_that_hangs_or_dies(tmp_path, monkeypatch):
    """Played without processes that take a minute: one pipe stays silent, another breaks."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import fuzz as script

    class Far:
        def __init__(self, answers):
            self.answers = answers

        def poll(self, seconds):
            return bool(self.answers)

        def recv(self):
            answer = self.answers.pop(0)
            if isinstance(answer, type):
                raise answer
            return answer

        def close(self):
            pass

    class Worker:
        daemon = True

        def start(self):
            pass

        kill = join = start

    def answer(number):
        return number, "nii", "bits", judging.Outcome(TRUE, "", 0.0), 0.0

    pipes = iter([Far([answer(0)]), Far([EOFError]), Far([answer(3)])])

    spawn = SimpleNamespace(
        Pipe=lambda duplex: (next(pipes), Far([])), Process=lambda **more: Worker()
    )
    monkeypatch.setattr(script.multiprocessing, "get_context", lambda name: spawn)
    found = list(script.results(0, [0, 1, 2, 3]))
    assert [one[3].verdict for one in found] == [TRUE, script.HANG, script.KILLED, TRUE]
    assert script.rows(found)[-1]["hang or killed"] == 2
    sys.modules.pop("fuzz")
