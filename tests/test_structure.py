"""What may import what, and what no file may hold."""

import ast
import importlib
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "unpaired"
LEVELS = {
    "__main__": 17,
    "torchrun": 17,
    "cli": 16,
    "api": 15,
    "experiments": 14,
    "report": 13,
    "training": 12,
    "evaluation": 11,
    "inference": 10,
    "artifact": 9,
    "run": 8,
    "checks": 7,
    "phantom": 7,
    "importing": 7,
    "methods": 6,
    "models": 5,
    "data": 5,
    "datasets": 4,
    "plausibility": 3,
    "backbones": 3,
    "io": 3,
    "config": 2,
    "nn": 2,
    "losses": 2,
    "metrics": 2,
    "device": 1,
    "files": 1,
    "inflate": 1,
    "tables": 1,
    "workers": 1,
    "progress": 0,
    "leftovers": 0,
    "errors": 0,
    "colours": 0,
    "names": -1,
    "signals": -1,
}
"""A part may import its own part and those strictly below it."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path: Path) -> set[str]:
    """Full names of everything the file imports, at any depth, but for typing only."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        todo += ast.iter_child_nodes(node)
    return found


def part(name: str) -> str:
    pieces = name.split(".")
    return pieces[1] if len(pieces) > 1 else ""


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:  # not a git checkout, such as an unpacked archive
        return [p for p in SOURCE.rglob("*") if p.suffix in {".py", ".toml", ".html", ".css"}]
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        try:
            yield path, path.read_text()
        except UnicodeDecodeError:
            continue


def test_imports_point_down() -> None:
    wrong = []
    for name, path in modules():
        own = part(name)
        for target in imported(path):
            below = part(target)
            if not target.startswith("unpaired") or not own or below not in LEVELS:
                continue
            if below != own and LEVELS[below] >= LEVELS[own]:
                wrong.append(f"{name} imports {target}")
    assert not wrong, wrong
    assert {part(name) for name, _ in modules()} - {""} <= LEVELS.keys()


def test_the_import_reader_sees_imports(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a.b\n"
        "def f():\n    from c.d import e\n    import g\n"
    )
    assert imported(file) == {"typing.TYPE_CHECKING", "c.d.e", "g"}


def test_losses_import_nothing_of_ours() -> None:
    for name, path in modules():
        if part(name) == "losses":
            ours = {t for t in imported(path) if t.startswith("unpaired")}
            assert all(t.startswith("unpaired.losses") for t in ours), (name, ours)


def test_tensors_only() -> None:
    """nn and losses know no configuration and no file."""
    for name, path in modules():
        if part(name) in {"nn", "losses"}:
            for target in imported(path):
                assert target.split(".")[0] not in {"pathlib", "pydantic", "os", "json"}, name
                assert part(target) not in {"files", "config", "errors"} or not target.startswith(
                    "unpaired"
                ), (name, target)


def test_metrics_need_no_torch() -> None:
    for name, path in modules():
        if part(name) == "metrics":
            assert not {t for t in imported(path) if t.split(".")[0] in {"torch", "unpaired"}} - {
                t for t in imported(path) if t.startswith("unpaired.metrics")
            }, name


def reachable(start: str) -> set[str]:
    """Modules of ours that importing `start` file by file leads to, package files left out."""
    files = dict(modules())
    seen, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name in seen or name not in files:
            continue
        seen.add(name)
        for target in imported(files[name]):
            todo += [target, target.rpartition(".")[0]]
    return seen


def test_what_is_kept_never_imports_what_is_dropped() -> None:
    found = reachable("unpaired.models.segmenter")
    assert "unpaired.models.semantics" not in found
    assert "unpaired.nn.external_attention" not in found
    assert "unpaired.nn.block" in found  # the walk does walk


def test_a_comparator_lies_in_its_own_folder() -> None:
    """No other room knows how Payer et al. plan, draw or look: the method is asked."""
    for name, path in modules():
        if not name.startswith("unpaired.methods") and name != "unpaired.evaluation.localisation":
            assert not {t for t in imported(path) if ".payer" in t}, name


@pytest.mark.parametrize(
    "where",
    ["nn", "losses", "models", "methods", "training", "inference", "evaluation", "artifact"],
)
def test_no_modality_is_named(where: str) -> None:
    """A modality is a dictionary key; the words occur neither in code nor in comments."""
    for path in sorted((SOURCE / where).rglob("*.py")):
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                words = re.findall(r"[A-Za-z]+", token.string)
                assert not {"ct", "mr"} & {w.casefold() for w in words}, (path, token.start)


def test_no_file_names_a_registry_or_a_machine() -> None:
    hosts = [
        w + r"\.(org|com|net)"
        for w in ("py" + "pi", "python" + "hosted", "npm" + "js", "deb" + "ian")
    ]
    paths = [rf"(?<![\w.~]){re.escape(p)}" for p in ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/")]
    pattern = re.compile("|".join(hosts + paths))
    assert pattern.search("see /wo" + "rk/x")
    for path, text in texts():
        if path.suffix != ".json":
            assert not pattern.search(text), path


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|NotImplemented" + "Error")
    skips = re.compile(r"pytest\.skip\(\)|mark\." + "xfail|mark\\.skip\\b(?!if)")
    for path, text in texts():
        assert not marks.search(text), path
        assert not skips.search(text), path


def test_functions_and_files_are_small() -> None:
    lengths = {path: path.read_text().count("\n") for _, path in modules()}
    assert sum(n > 250 for n in lengths.values()) <= len(lengths) / 5
    assert max(lengths.values()) <= 350, max(lengths, key=lambda path: lengths[path])
    for path in lengths:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, (path, node.name)


def test_no_future_annotations() -> None:
    """They would switch the checks of shapes off."""
    for _, path in modules():
        assert "__future__.annotations" not in imported(path), path


def test_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make install" in text
    assert "make demo" in text
    assert text.index("docs/hero.png") < text.index("make install")
    assert "Not a medical device" in text


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"`((?:docs|tests|src)/[\w./-]+\.\w+)`", path.read_text()):
            assert (ROOT / name).exists(), (path, name)
    text = (ROOT / "docs" / "paper.md").read_text()
    for name in re.findall(r"`((?:nn|losses|models|backbones)/\w+\.py)`", text):
        assert (SOURCE / name).exists(), name


def test_cited_decisions_exist() -> None:
    known = set(re.findall(r"^\| (D\d+) \|", (ROOT / "docs" / "decisions.md").read_text(), re.M))
    assert len(known) > 40
    for name, path in modules():
        cited = re.findall(r"(?:[Dd]ecisions?(?:\.md)?,?\s+)(D\d+)", path.read_text())
        assert set(cited) <= known, (name, cited)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("unpaired.nn", ["ExternalAttention", "correlation"]),
        ("unpaired.losses", ["mcr", "icr", "Objective"]),
        ("unpaired.backbones", ["BACKBONES", "SwinUnet", "NNFormer", "ResEncUnet", "Foreign"]),
        (
            "unpaired.models",
            ["Segmenter", "Semantics", "Joint", "VARIANTS", "fold", "attach", "detach"],
        ),
        ("unpaired.metrics", ["dice", "asd", "hd95", "nsd"]),
        ("unpaired", ["Predictor"]),
    ],
)
def test_public_names(module: str, names: list[str]) -> None:
    found = importlib.import_module(module)
    for name in names:
        assert getattr(found, name) is not None
        assert name in found.__all__
