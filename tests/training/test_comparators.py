"""The comparators by name: each trains, resumes, predicts and exports as any other network."""

import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import process_time

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from toy import toy_config, write_toy
from unpaired.artifact.export import export
from unpaired.artifact.model import Model
from unpaired.cli.app import run as program
from unpaired.config import Config, load_config, to_toml
from unpaired.config.schema import ModelConfig
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.errors import Interrupted, UsageError
from unpaired.inference.predictor import Predictor
from unpaired.methods import method_of
from unpaired.metrics import dice
from unpaired.models import Joint, gains_form
from unpaired.run.log import read_log
from unpaired.training import trainer as training
from unpaired.training.checkpoint import load_checkpoint
from unpaired.training.fit import train

pytestmark = pytest.mark.slow

SMALL: dict[str, list[str]] = {
    "ummkd": ["base_width=8", "stages=3"],
    "valindria": ["base_width=8", "stages=3"],
}
SHARINGS = ("all", "encoder", "decoder", "middle")
NETWORKS = [("ummkd", ""), *(("valindria", sharing) for sharing in SHARINGS)]
EVERY = [*((*one, 2) for one in NETWORKS), ("ummkd", "", 3), ("valindria", "middle", 3)]
CLASSES = ("background", "ball", "box")
PATCH = {2: (32, 32), 3: (8, 16, 16)}


def config_of(name: str, sharing: str = "", dims: int = 2, *more: str) -> Config:
    options = [*SMALL[name], *([f"sharing={sharing}"] if sharing else [])]
    own = [f"model.name={name}", f"data.dims={dims}", "train.precision=fp32"]
    return load_config(None, None, [*own, *(f"model.options.{o}" for o in options), *more])


def plan_of(dims: int = 2, channels: dict[str, int] | None = None) -> Plan:
    clip = Clip(kind="percentile", low=1.0, high=99.0)
    parts = {
        m: ModalityPlan(channel_names=tuple(f"c{i}" for i in range(n)), clip=(clip,) * n)
        for m, n in (channels or {"a": 1, "b": 1}).items()
    }
    return Plan(
        classes=CLASSES, modalities=parts, spacing_mm=(3.0, 1.0, 1.0), slice_axis="S",
        patch=PATCH[dims], context=1,
    )  # fmt: skip


def scenes(plan: Plan, images: int = 2) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A ball and a box; bright and dark differ between the modalities, and places too."""
    size = plan.patch
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) * 1.0 for n in size], indexing="ij"))
    found: dict[str, Tensor] = {}
    labels: dict[str, Tensor] = {}
    for k, (m, part) in enumerate(plan.modalities.items()):
        generator = torch.Generator().manual_seed(k)
        rows, truth = [], []
        for _ in range(images):
            centre = torch.tensor([n * 0.35 for n in size])
            centre = centre + 3 * torch.rand(len(size), generator=generator)
            ball = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < 30
            box = torch.stack([abs(g - 0.75 * n) < 3 for g, n in zip(grid, size, strict=True)])
            label = torch.where(ball, 1, 2 * box.all(0).long())
            image = torch.tensor([0.0, 2.0, 1.0] if k % 2 else [1.0, -1.0, 0.0])[label]
            noise = 0.3 * torch.randn(len(part.channel_names), *size, generator=generator)
            rows.append(image + noise)
            truth.append(label)
        found[m], labels[m] = torch.stack(rows), torch.stack(truth)
    return found, labels


@pytest.mark.parametrize(("name", "sharing", "dims"), EVERY)
def test_three_modalities_of_other_channels_learn_together(
    name: str, sharing: str, dims: int
) -> None:
    """Every parameter that may learn gets a gradient (several processes need that)."""
    plan, config = plan_of(dims, {"a": 1, "b": 2, "c": 1}), config_of(name, sharing, dims)
    torch.manual_seed(0)
    method = method_of(config)
    joint, objective = method.joint(config, plan).train(), method.objective(config, plan)
    assert not any(p.requires_grad for p in joint.segmenter.stems.parameters())
    assert bool(joint.segmenter.encoders) == (sharing != "all")
    learnt = [p for p in joint.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, 3e-3)
    images, labels = scenes(plan)
    losses = []
    for _ in range(8):
        terms = objective(joint(images), labels)
        optimizer.zero_grad()
        terms.total.backward()
        if not losses:
            assert all(p.grad is not None for p in learnt)
            assert ("kd" in terms.terms) == (name == "ummkd")
        optimizer.step()
        losses.append(float(terms.total.detach()))
    assert losses[-1] < 0.95 * losses[0], losses
    step = method_of(config).size_step(config)
    assert all(s % m == 0 for s, m in zip(step, joint.segmenter.backbone.multiple, strict=True))


@pytest.mark.parametrize(("name", "sharing"), [("ummkd", ""), ("valindria", "middle")])
def test_overfits_two_slices_of_each_modality(name: str, sharing: str) -> None:
    """With the defaults of the network but for its width; scored as it predicts."""
    plan, config, began = plan_of(), config_of(name, sharing), process_time()
    torch.manual_seed(0)
    method = method_of(config)
    joint, objective = method.joint(config, plan).train(), method.objective(config, plan)
    optimizer = torch.optim.AdamW([p for p in joint.parameters() if p.requires_grad], 3e-3)
    images, labels = scenes(plan)
    for _ in range(100):
        optimizer.zero_grad()
        objective(joint(images), labels).total.backward()
        optimizer.step()
    joint.eval()
    with torch.no_grad():
        for m, image in images.items():
            found = joint.segmenter(image, m).logits.argmax(1).numpy()
            for z in (1, 2):
                score = dice(found == z, labels[m].numpy() == z)
                assert score > 0.95, (m, z, score)
    assert process_time() - began < 20


@pytest.mark.parametrize(("name", "sharing", "dims"), EVERY)
def test_what_is_saved_is_what_was(name: str, sharing: str, dims: int, tmp_path: Path) -> None:
    joint, config, plan = stepped(name, sharing, dims)
    Model(gains_form(joint), plan, config).save(tmp_path, {})
    read = Model.load(tmp_path).segmenter
    with torch.no_grad():
        for m, image in scenes(plan, 3)[0].items():
            assert torch.equal(read(image, m).logits, joint({m: image})[m].logits)


def stepped(name: str, sharing: str, dims: int) -> tuple[Joint, Config, Plan]:
    """A network that has seen something: statistics and weights are not those of the start."""
    plan, config = plan_of(dims, {"a": 1, "b": 2}), config_of(name, sharing, dims)
    torch.manual_seed(0)
    joint = method_of(config).joint(config, plan).train()
    for _ in range(3):
        joint(scenes(plan)[0])
    with torch.no_grad():
        for p in joint.segmenter.encoders.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return joint.eval(), config, plan


@pytest.mark.parametrize(("name", "sharing"), NETWORKS)
def test_bf16_stays_near(name: str, sharing: str) -> None:
    joint, _, plan = stepped(name, sharing, 2)
    for mode in (joint.eval, joint.train):
        mode()
        torch.manual_seed(1)
        exact = joint(scenes(plan)[0])
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            rough = joint(scenes(plan)[0])
        for m, one in exact.items():
            other = rough[m].logits.float()
            assert (other - one.logits).norm() < 0.1 * one.logits.norm(), m


# --- through the engine ----------------------------------------------------------------------


def small_run(name: str, *more: str) -> Config:
    """The toy's settings with a comparator in them."""
    options = {"ummkd": {"base_width": 4, "stages": 3}, "valindria": {"base_width": 4, "stages": 3}}
    model = ModelConfig(name=name, options=options[name])
    plain = toy_config(*more)
    return plain.model_copy(update={"model": model})


@pytest.fixture(scope="module", params=["ummkd", "valindria"])
def finished(
    request: pytest.FixtureRequest, data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Path]:
    config, folder = small_run(request.param), tmp_path_factory.mktemp("run") / "whole"
    train(config, data, folder)
    return config, folder


def state(run: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_checkpoint(run / "checkpoints/last.pt")["model"]
    return found


def losses(run: Path) -> list[float]:
    return [r["loss"] for r in read_log(run / "log.jsonl") if r["kind"] == "step"]


def test_resumed_equals_unbroken(
    finished: tuple[Config, Path],
    data: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit for bit, with dropout on and running statistics among what is stored."""
    config, whole = finished
    plain = training.Trainer._optimise

    def optimise(self: training.Trainer, batches: object) -> object:
        if self.step + 1 == 3:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, batches)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_optimise", optimise)
        with pytest.raises(Interrupted, match="step 3 of 6"):
            train(config, data, tmp_path / "broken")
    train(config, data, tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(whole)
    one, two = state(tmp_path / "broken"), state(whole)
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
    if config.model.name == "ummkd":
        assert int(two["segmenter.encoders.a.0.num_batches_tracked"]) == 6


def test_a_folder_predicts_what_the_live_network_does(
    finished: tuple[Config, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    """Labels of `unpaired predict` against the training network itself, on whole scans."""
    config, folder = finished
    plan = Plan.read(folder / "plan.json")
    joint = method_of(config).joint(config, plan)
    joint.load_state_dict(state(folder))
    live = Predictor([Model(joint.eval().segmenter, plan, config)], torch.device("cpu"))
    stored = Predictor.from_folder(folder, "cpu")
    for m, root in data.items():
        scan = sorted((root / "imagesTr").glob("*.nii.gz"))[0]
        expected = live.predict(scan, m, probabilities=True)
        found = stored.predict(scan, m, probabilities=True)
        assert np.array_equal(found.probabilities, expected.probabilities)
        assert len(np.unique(expected.labels)) > 1
        out = tmp_path / f"{m}.nii.gz"
        call = ["predict", str(scan), "--out", str(out), "--model", str(folder), "--modality", m]
        assert program([*call, "--device", "cpu"]) == 0
        assert np.array_equal(np.asarray(nib.load(out).dataobj), expected.labels)


@pytest.mark.parametrize("form", ["gains", "folded"])
def test_exports_to_safetensors(finished: tuple[Config, Path], tmp_path: Path, form: str) -> None:
    """Writing checks the file against the live network; the folder predicts as the run does."""
    config, folder = finished
    done = export(folder, tmp_path / "out", form)
    assert all(parity.positions > 0 for parity in done.parity.values())
    one, two = Predictor.from_folder(folder, "cpu"), Predictor.from_folder(tmp_path / "out", "cpu")
    image = np.random.default_rng(0).normal(size=(40, 36, 10)).astype(np.float32)
    for m in ("a", "b"):
        a, b = (
            p.predict(image, m, spacing_mm=(1.0, 1.0, 3.0), probabilities=True) for p in (one, two)
        )
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-4)
    cards = [path.read_text() for path in (tmp_path / "out").rglob("README.md")]
    assert cards and all(config.model.name in card for card in cards)
    assert not any("swin_unet" in card or "variant" in card for card in cards)


def test_exports_to_onnx_when_folded(finished: tuple[Config, Path], tmp_path: Path) -> None:
    """Batch norm and all."""
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    _, folder = finished
    done = export(folder, tmp_path / "folded", "folded", ["onnx"], ["b"])
    assert all(parity.positions > 0 for parity in done.parity.values())
    with pytest.raises(UsageError, match="Give --form folded"):
        export(folder, tmp_path / "gains", "gains", ["onnx"])


def test_the_command_line_trains_a_comparator_by_its_name(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On settings of another network, whose options are dropped."""
    settings = tmp_path / "toy.toml"
    settings.write_text(to_toml(toy_config("train.steps=2")))
    roots = [text for m, root in data.items() for text in ("--data", f"{m}={root}")]
    call = ["train", *roots, "--config", str(settings), "--out"]
    more = ["model.name=ummkd", "model.options.base_width=4", "model.options.stages=3"]
    assert program([*call, str(tmp_path / "run"), *more]) == 0
    assert "Stopped at step 2" in capsys.readouterr().out
    record = read_log(tmp_path / "run/log.jsonl")[0]
    assert set(record["terms"]) == {"seg/a", "seg/b", "kd"}
    assert record["weighted"]["kd"] == pytest.approx(0.5 * record["terms"]["kd"], rel=1e-4)
    assert program([*call, str(tmp_path / "none"), "model.name=umkd"]) == 2
    assert "Did you mean 'ummkd'" in capsys.readouterr().err


def test_a_modality_is_added_to_a_run(
    finished: tuple[Config, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    config, folder = finished
    extra = write_toy(tmp_path / "more", "c", 4, False, (1, 2))
    own = {"init_from": str(folder), "steps": 1, "learning_rate": 1e-12, "warmup_steps": 0}
    options = config.model_copy(update={"train": config.train.model_copy(update=own)})
    train(options, {**data, "c": extra}, tmp_path / "second")
    before, after = state(folder), state(tmp_path / "second")
    assert before.keys() < after.keys()
    weights = [n for n in before if n.endswith("weight")]
    for name in weights:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)


def test_a_weights_file_is_refused() -> None:
    config = config_of("ummkd", "", 2, "model.pretrained=some.pth")
    with pytest.raises(UsageError, match=r"model\.name=ummkd has a network of its own"):
        method_of(config).segmenter(config, plan_of())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ummkd", "valindria"])
def test_two_processes(name: str, data: dict[str, Path], tmp_path: Path) -> None:
    """Two processes are one of a double batch, its statistics and dropout included."""
    more = ["train.steps=3", "train.gradient_clip=none"]
    settings = tmp_path / "settings.toml"
    settings.write_text(to_toml(small_run(name, *more)))
    script = tmp_path / "two.py"
    script.write_text(
        "from pathlib import Path\nimport torch\n"
        "from unpaired.config import config_from_toml\nfrom unpaired.training.fit import train\n"
        "torch.set_num_threads(1)\n"
        "if __name__ == '__main__':\n"
        f"    roots = { ({m: str(p) for m, p in data.items()})!r}\n"
        f"    train(config_from_toml(Path({str(settings)!r})),\n"
        f"          {{m: Path(p) for m, p in roots.items()}}, Path({str(tmp_path / 'two')!r}))\n"
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    launch += ["--master_addr=127.0.0.1", f"--master_port={port}", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    train(small_run(name, *more, "train.batch_size=4"), data, tmp_path / "one")
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=2e-4)
    if name == "ummkd":
        one, two = state(tmp_path / "one"), state(tmp_path / "two")
        for part in ("running_mean", "running_var", "num_batches_tracked"):
            key = f"segmenter.encoders.a.0.{part}"
            torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-5)
