"""The exported model comes back bit for bit, and anything else is refused with a reason."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_model import tiny_config, tiny_plan, tiny_segmenter, write_model
from unpaired.artifact import safetensors
from unpaired.artifact.model import Model
from unpaired.artifact.safetensors import build_shapes
from unpaired.errors import DataError
from unpaired.methods import method_of


@pytest.mark.parametrize("variant", ["V1", "V2", "V3"])
def test_what_is_saved_comes_back(tmp_path: Path, variant: str) -> None:
    config, plan = tiny_config(variant), tiny_plan()
    segmenter = tiny_segmenter(config, plan)
    Model(segmenter, plan, config).save(tmp_path, {"steps": 3})
    model = Model.load(tmp_path)
    found = model.segmenter
    assert model.plan == plan and model.config == config
    assert bool(found.gains) == (variant == "V3")
    image = torch.randn(2, 3, 32, 32)
    for modality in plan.modalities:
        expected = segmenter(image, modality).logits
        assert torch.equal(found(image, modality).logits, expected)
    assert not any(p.requires_grad for p in found.parameters()) and not found.training


def test_gains_change_the_result_so_that_restoring_them_matters(tmp_path: Path) -> None:
    segmenter = write_model(tmp_path)
    image = torch.randn(1, 3, 32, 32)
    a, b = (segmenter(image, m).logits for m in ("ct", "mr"))
    assert not torch.allclose(a, b)
    found = Model.load(tmp_path).segmenter
    found.gains.clear()
    assert not torch.allclose(found(image, "ct").logits, a)


def test_the_description_is_readable_and_complete(tmp_path: Path) -> None:
    segmenter = write_model(tmp_path)
    found = json.loads((tmp_path / "model.json").read_text())
    assert found["modalities"] == ["ct", "mr"]
    assert found["labels"] == ["background", "liver", "spleen"]
    assert found["parameters"] == sum(p.numel() for p in segmenter.parameters())
    assert found["extra"] == {"steps": 3}
    assert set(found["versions"]) == {"unpaired", "torch", "python"}


def test_no_folder_of_the_machine_is_passed_on(tmp_path: Path) -> None:
    home = "/data/somebody/private"
    more = [f"data.splits={home}/splits_final.json", f"model.pretrained={home}/swin.safetensors"]
    plan = tiny_plan()
    begun = f"train.init_from={home}/run"
    for number, changed in enumerate((more, [begun])):
        config = tiny_config("V3", *changed)
        segmenter, folder = tiny_segmenter(tiny_config(), plan), tmp_path / str(number)
        Model(segmenter, plan, config).save(folder, {})
        for file in folder.iterdir():
            assert b"somebody" not in file.read_bytes()
        found = Model.load(folder).config
        if number == 0:
            assert found.data.splits == "splits_final.json"
            assert found.model.pretrained == "swin.safetensors"
        else:
            assert found.train.init_from == "run"


def test_the_weights_file_alone_is_a_whole_model(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.json").unlink()
    assert Model.load(tmp_path).plan == tiny_plan()


def test_loading_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    write_model(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    Model.load(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_the_digest_follows_weights_and_plan(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abcd"]
    write_model(folders[0])
    write_model(folders[1])
    write_model(folders[2], seed=1)
    write_model(folders[3], plan=tiny_plan(spacing_mm=(3.0, 2.0, 2.5)))
    a, b, c, d = (Model.load(folder).digest for folder in folders)
    assert a == b and len({a, c, d}) == 3


def metadata_of(path: Path) -> dict[str, str]:
    with safetensors._opened(path) as file:
        return dict(file.metadata())


def rewrite(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> None:
    """Write the weights file again with a changed header or other tensors."""
    path = folder / "model.safetensors"
    metadata = {**metadata_of(path), **changes}
    save_file(load_file(path) if tensors is None else tensors, path, metadata)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "pt"}, "not written by this program"),
        ({"schema": "2"}, "Update unpaired"),
        ({"schema": "x"}, "schema"),
        ({"description": "{}"}, "changed after it was written"),
        ({"sha256": "0" * 64}, "sha256"),
    ],
)
def test_a_changed_header_is_refused(tmp_path: Path, change: dict[str, str], words: str) -> None:
    write_model(tmp_path)
    rewrite(tmp_path, **change)
    with pytest.raises(DataError, match=words):
        Model.load(tmp_path)


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    rewrite(tmp_path, tensors)
    with pytest.raises(DataError, match="changed after it was written"):
        Model.load(tmp_path)


@pytest.mark.parametrize("kind", ["shape", "missing", "unknown", "gains", "type"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(n for n in tensors if n.endswith("embed.weight") or "weight" in n)
    if kind == "shape":
        tensors[name] = torch.cat([tensors[name]] * 2)
    elif kind == "missing":
        del tensors[name]
    elif kind == "unknown":
        tensors["intruder"] = torch.zeros(1)
    elif kind == "gains":
        tensors["gains.ct.phi"] = torch.ones(3)
    else:
        tensors[name] = tensors[name].double()
    rewrite(tmp_path, tensors, sha256=safetensors.tensor_digest(tensors))
    with pytest.raises(DataError, match="do not fit"):
        Model.load(tmp_path)


def redescribe(folder: Path, part: str, **changes: Any) -> None:
    """Change the description and everything that must agree with it."""
    description = json.loads(metadata_of(folder / "model.safetensors")["description"])
    place = description
    for name in part.split("."):
        place = place[name]
    place.update(changes)
    text = json.dumps(description)
    (folder / "model.json").unlink()
    rewrite(folder, description=text, description_sha256=safetensors._digest(text))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("plan", {"spacing_mm": [0.0, 1.0, 1.0]}),
        ("plan", {"spacing_mm": [float("inf"), 1.0, 1.0]}),
        ("plan", {"patch": [0, 32]}),
        ("plan", {"context": 2}),
        ("plan", {"context": -1}),
        ("plan", {"context": 10**9 + 1}),
        ("plan", {"classes": ["background"]}),
        ("plan", {"modalities": {}}),
        ("plan.modalities.ct", {"clip": []}),
        ("plan.modalities.ct", {"channel_names": [], "clip": []}),
        ("config.model", {"backbone": "none"}),
        ("config.model.options", {"embed_dim": 10**7}),
        ("config.model.options", {"embed_dim": 10**30}),
        ("config.model.options", {"embed_dim": -12}),
        ("config.model.options", {"embed_dim": "x"}),
        ("config.model.options", {"depths": [10**9] * 4}),
        ("config.model.options", {"depths": [2000] * 4}),
        ("config.model.options", {"depths": [], "heads": []}),
        ("config.model.options", {"heads": [0, 0, 0, 0]}),
        ("config.model.options", {"patch": 0}),
        ("config.model.options", {"stride": 0}),
        ("config.model.options", {"window": 0}),
        ("config.model.options", {"window": 10**6}),
    ],
)
def test_an_odd_description_is_refused_before_it_takes_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, changes: dict[str, Any]
) -> None:
    write_model(tmp_path)
    redescribe(tmp_path, part, **changes)

    method = type(method_of(tiny_config()))
    build = method.segmenter

    def allocated(*about: Any) -> Any:
        if torch.get_default_device().type != "meta":
            raise KeyboardInterrupt("the network was allocated")
        return build(*about)

    monkeypatch.setattr(method, "segmenter", allocated)
    with pytest.raises(DataError):
        Model.load(tmp_path)


def test_a_table_that_no_tensor_of_the_file_shows_is_refused() -> None:
    plan = tiny_plan().model_copy(update={"patch": (4096, 4096)})
    config = tiny_config("V2", "model.options.window=128")
    with pytest.raises(ValueError, match="tables"):
        build_shapes(lambda: method_of(config).segmenter(config, plan), 500)


def test_a_nested_description_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.json").unlink()
    text = "[" * 100_000
    rewrite(tmp_path, description=text, description_sha256=safetensors._digest(text))
    with pytest.raises(DataError):
        Model.load(tmp_path)


def test_an_edited_copy_of_the_description_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "model.json"
    path.write_text(path.read_text().replace("liver", "kidney"))
    with pytest.raises(DataError, match="Delete it"):
        Model.load(tmp_path)


def test_truncation_at_any_place_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="safetensors"):
            Model.load(tmp_path)


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, len(whole), (25,), generator=generator).tolist()
    # The order of the header's fields varies from file to file: name the unprotected ones.
    named = [whole.index(field) + 3 for field in (b'"modalities"', b'"labels"', b'"schema"')]
    named += [at + 18 for at in named]
    for place in [0, 8, 20, 200, *named, *places]:
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        with pytest.raises(DataError):
            Model.load(tmp_path)


class Malicious:
    """Unpickling this would create a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_under_the_models_name_is_refused_and_never_run(tmp_path: Path, how: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "model.safetensors"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(trace)))
    else:
        torch.save(Malicious(trace), path)
    with pytest.raises(DataError, match="pickle"):
        Model.load(tmp_path)
    assert not trace.exists()


def test_an_empty_folder_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unpaired train"):
        Model.load(tmp_path)


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from tiny_model import write_model
import unpaired.artifact.safetensors as m
def half(tensors, path, metadata):
    Path(path).write_bytes(b"half")
    os.kill(os.getpid(), 9)
m.save_file = half
write_model(Path(sys.argv[1]), seed=1)
"""


@pytest.mark.unix
def test_killed_while_writing_leaves_the_old_model(tmp_path: Path) -> None:
    write_model(tmp_path)
    before = Model.load(tmp_path).digest
    code = KILLED.format(here=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    assert Model.load(tmp_path).digest == before
    Model.load(tmp_path)


def test_shapes_need_no_start_values_and_so_not_torch_s_compiler() -> None:
    code = """
import sys
from torch import nn
from unpaired.artifact.safetensors import build_shapes

def filled(fill):
    layer = nn.Linear(4, 4)
    fill(layer.weight)
    return layer

fills = [nn.init.trunc_normal_, nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.zeros_]
for fill in fills:
    assert build_shapes(lambda: filled(fill), 2).weight.is_meta
assert build_shapes(lambda: nn.Conv2d(1, 2, 3), 2).weight.shape == (2, 1, 3, 3)
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
