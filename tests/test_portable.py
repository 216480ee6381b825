"""The program runs where there is no fcntl, /proc, SIGUSR1 or fork, as on Windows."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from toy import toy_config, write_toy
from unpaired.config import to_toml
from unpaired.device import autocast_dtype
from unpaired.errors import ResourceError, UsageError
from unpaired.run import RunFolder

RULES = Path(__file__).parent / "like_windows"
CALLS = """
import json, sys
from unpaired.cli import main
for call in json.loads(sys.argv[1]):
    sys.argv = ["unpaired", *call]
    try:
        main()
    except SystemExit as end:
        assert not end.code, call
"""
EVERY_MODULE = """
import importlib, pkgutil
import unpaired
for module in pkgutil.walk_packages(unpaired.__path__, "unpaired."):
    importlib.import_module(module.name)
"""


def like_windows(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(RULES), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", program, *args],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        encoding="cp1252",
        check=False,
    )


@pytest.mark.linux
@pytest.mark.parametrize(
    ("deed", "error"),
    [
        ("import fcntl", "ModuleNotFoundError"),
        ("__name__ = 'unpaired.x'; import resource", "hidden by"),
        ("import signal; signal.SIGUSR1", "AttributeError"),
        ("import os; os.fork()", "AttributeError"),
        ("__name__ = 'unpaired.x'; open('/proc/cpuinfo')", "FileNotFoundError"),
        ("import pathlib as p; __name__ = 'unpaired'; p.Path('/proc/x').open()", "hidden by"),
        ("import os; f = open('a', 'w'); os.replace('a', 'b')", "open or mapped"),
        ("import os; f = open('a', 'w'); os.unlink('a')", "open or mapped"),
        ("import os; open('a', 'w').close(); os.fsync(open('a').fileno())", "Bad file descriptor"),
        (
            "import mmap, os; open('a', 'w').write('x' * 9); f = open('a', 'r+')\n"
            "m = mmap.mmap(f.fileno(), 0); f.close(); os.rename('a', 'b')",
            "open or mapped",
        ),
    ],
)
def test_the_imitation_refuses(
    deed: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = like_windows(deed)
    assert ended.returncode == 1
    assert error in ended.stderr.splitlines()[-1]


@pytest.mark.linux
@pytest.mark.slow
def test_every_module_and_verb(tmp_path: Path) -> None:
    data = write_toy(tmp_path / "data", "aa", 4, True, (1, 2))
    about = data / "dataset.json"  # a name that a Windows pipe cannot hold
    about.write_text(about.read_text().replace('"box"', '"腎臓"'), encoding="utf-8")
    image, run = data / "imagesTr" / "aa_00_0000.nii.gz", tmp_path / "run"
    settings, said, model = tmp_path / "toy.toml", tmp_path / "out/aa.nii.gz", tmp_path / "model"
    settings.write_text(to_toml(toy_config("data.workers=2", "train.steps=2")))
    named: Sequence[Sequence[str | Path]] = [
        ["--help"],
        ["train", "--data", f"aa={data}", "--config", settings, "--out", run],
        ["predict", "--model", run, "--out", said, "--probabilities", image],
        ["evaluate", run],
        ["report", run],
        ["export", run, model],
    ]
    calls = json.dumps([[str(word) for word in call] for call in named])
    ended = like_windows(CALLS + EVERY_MODULE, calls)
    assert ended.returncode == 0, ended.stderr
    assert "predict" in ended.stdout
    assert "\\u814e\\u81d3" in ended.stdout
    assert RunFolder(run).environment["cpu"]
    labels = np.asarray(nib.load(said).dataobj)
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert labels.shape == nib.load(image).shape


def test_the_processor_says_whether_it_computes_in_bf16() -> None:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        pytest.skip("nothing to compare with but on Linux")
    able = "avx512_bf16" in flags or "amx_bf16" in flags
    assert (autocast_dtype("auto", torch.device("cpu")) is torch.bfloat16) == able


def test_a_killed_process_leaves_its_run_folder_free(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path\n"
        "from unpaired.run import RunFolder\n"
        f"with RunFolder(Path({str(tmp_path)!r})).lock():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", hold], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == b"held"
        with pytest.raises(UsageError, match="another process is training"):
            RunFolder(tmp_path).lock().__enter__()
    finally:
        process.kill()
        process.communicate()
    with RunFolder(tmp_path).lock():
        pass


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot write the run folder .* Choose another --out"):
        RunFolder(tmp_path / "file" / "run").lock().__enter__()
