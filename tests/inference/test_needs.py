"""What a prediction is said to take of memory, against what it took."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from tiny_model import (
    pointwise_model,
    smooth_image,
    tiny_config,
    tiny_plan,
    write_model,
    write_nifti,
)
from unpaired.cli.app import run
from unpaired.config.schema import PredictConfig
from unpaired.device import resident_bytes
from unpaired.inference.ensemble import Ensemble, OutOfMemoryError
from unpaired.inference.needs import Counted, Needs
from unpaired.inference.predictor import Predictor
from unpaired.io.volume import volume_of_array

MIB = 1 << 20


def ensemble(batch_size=4, spacing_mm=2.0):
    settings = PredictConfig(batch_size=batch_size)
    model = pointwise_model(tiny_plan(spacing_mm=(spacing_mm,) * 3))
    return Ensemble([model], torch.device("cpu"), [settings], "fp32")


def volumes(shape=(64, 64, 20)):
    return [volume_of_array(np.zeros(shape, np.int16), None, (2.0, 2.0, 2.0))]


def test_what_lives_together_is_counted():
    """A view and a change in place are nothing new; what is let go of is gone."""
    x = torch.zeros(1, 1, 256, 256)  # there before, 256 KiB
    counted = Counted()
    with counted, torch.no_grad():
        y = x + 1
        z = y + 1
        del y
        w = (z + 1).add_(1).view(-1)
        del z
        _ = w * 2
    assert counted.most == 2 * 256 << 10
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    counted = Counted()
    with counted, torch.no_grad():
        network(x)
    assert counted.most == 2 * 8 * 256 << 10


def test_it_grows_with_image_batch_and_pieces():
    one = ensemble()
    small, large = one.needs(volumes(), "ct"), one.needs(volumes((64, 64, 80)), "ct")
    assert large.memory_bytes - small.memory_bytes >= 20 * 60 * 64 * 64 - MIB
    assert small.memory_bytes >= resident_bytes() - MIB
    wide = ensemble(batch_size=64).needs(volumes(), "ct")
    assert wide.batch_size == 64 > small.batch_size == 4
    assert wide.memory_bytes > small.memory_bytes - MIB
    long = volumes((200, 200, 200))
    coarse = ensemble(spacing_mm=8.0)  # the file's voxels are what counts
    found = [coarse.needs(long, "ct", pieces).memory_bytes for pieces in ((), [1])]
    assert found[1] > found[0] + 8 * MIB
    kept = np.zeros((3, 200, 200, 200), np.float32)
    more = one.needs(long, "ct", (), kept).memory_bytes - one.needs(long, "ct").memory_bytes
    assert abs(more - kept.nbytes) < 8 * MIB


def test_a_machine_that_has_not_so_much_refuses_with_what_would_help(monkeypatch):
    little = psutil.virtual_memory()._replace(total=100 * MIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    monkeypatch.setattr(psutil, "swap_memory", lambda: little._replace(total=0))
    with pytest.raises(
        OutOfMemoryError, match=r"64 x 64 x 20 voxels.*0\.1 GiB.*--batch-size 1.*crop"
    ):
        ensemble().needs(volumes(), "ct")
    with pytest.raises(OutOfMemoryError) as told:
        ensemble(batch_size=1).needs(volumes(), "ct")
    assert "--batch-size" not in str(told.value)


def test_a_case_that_does_not_fit_does_not_stop_the_others(tmp_path, monkeypatch):
    write_model(tmp_path / "model", tiny_plan(), tiny_config())
    for name, shape in (("a", (40, 36, 10)), ("b", (40, 36, 30)), ("c", (40, 36, 11))):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", smooth_image(shape), np.eye(4))
    real = Ensemble.needs

    def needs(self, volumes, *given):
        if volumes[0].array.shape[2] == 30:
            raise OutOfMemoryError("too large")
        return real(self, volumes, *given)

    monkeypatch.setattr(Ensemble, "needs", needs)
    told: list[Needs] = []
    found = Predictor.from_folder(tmp_path / "model", "cpu").predict_folder(
        tmp_path / "in", tmp_path / "out", "ct", strict=False, on_needs=told.append
    )
    assert [one.image for one in told] == ["a.nii.gz", "c.nii.gz"]
    assert found.failures == {"b": "too large"} and set(found.written) == {"a", "c"}


def test_the_command_says_it_once_and_warns(tmp_path, monkeypatch, capsys):
    write_model(tmp_path / "model", tiny_plan(), tiny_config())
    for name in "ab":
        image = smooth_image((40, 36, 10))
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image, np.diag([2, 2, 3, 1]))
    call = ["predict", str(tmp_path / "in"), "--model", str(tmp_path / "model"), "--modality", "ct"]
    assert run([*call, "--out", str(tmp_path / "one"), "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert len(re.findall(r"about .* of memory", said)) == 1
    assert "a.nii.gz: about" in said and "may not fit" not in said
    busy = psutil.virtual_memory()._replace(available=-(1 << 40))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: busy)
    assert run([*call, "--out", str(tmp_path / "two"), "--device", "cpu"]) == 0
    assert (
        "may not fit; close other programs, predict with --batch-size 1" in capsys.readouterr().err
    )


PROGRAM = (
    "import sys; from pathlib import Path; from unpaired.cli.app import run\n"
    "code = run(sys.argv[1:])\n"
    "text = Path('/proc/self/status').read_text()\n"
    "print('peak', int(text.split('VmHWM:')[1].split()[0]) >> 10)\n"
    "sys.exit(code)"
)


@pytest.mark.slow
@pytest.mark.linux
def test_a_prediction_stays_within_its_forecast(tmp_path: Path) -> None:
    """The whole process, as the system counts it at its largest, and a fifth."""
    plan = tiny_plan(spacing_mm=(6.0, 3.0, 3.0))
    write_model(tmp_path / "model", plan, tiny_config())
    scan = write_nifti(
        tmp_path / "a.nii.gz", smooth_image((200, 180, 160)), np.diag([2.0, 2.0, 2.0, 1.0])
    )
    call = ["predict", str(scan), "--model", str(tmp_path / "model"), "--modality", "ct"]
    call += ["--out", str(tmp_path / "l.nii.gz"), "--device", "cpu"]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *call], capture_output=True, text=True, check=True
    )
    said = re.search(r"a\.nii\.gz: about (\d+) MiB of memory", ended.stderr)
    peak = re.search(r"peak (\d+)", ended.stdout)
    assert said and peak, ended.stderr
    assert int(peak[1]) <= 1.2 * int(said[1])
    assert int(said[1]) <= 2 * int(peak[1])


def test_a_prediction_does_not_load_the_compiler_of_torch(tmp_path: Path) -> None:
    # A convolutional network: Swin-Unet's tables of offsets, built as shapes alone, do load it.
    options = {"base_width": 4, "max_width": 8, "stages": 2, "blocks": (1, 1)}
    config = tiny_config("V2")
    model = config.model.model_copy(update={"backbone": "resenc_unet", "options": options})
    write_model(tmp_path / "model", config=config.model_copy(update={"model": model}))
    write_nifti(tmp_path / "one.nii.gz", smooth_image((24, 24, 6)), np.diag([2.0, 2, 5, 1]))
    code = (
        "import sys; from pathlib import Path; from unpaired import load; "
        "model, image, out = map(Path, sys.argv[1:]); "
        "load(model, device='cpu').predict_file(image, out, 'ct', on_needs=print); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    given = [str(tmp_path / name) for name in ("model", "one.nii.gz", "label.nii.gz")]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "label.nii.gz").exists()
