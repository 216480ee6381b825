"""The map of the rooms and the figures of the layout, drawn from the imports.

    python docs/rooms.py              the text of docs/architecture.md
    python docs/rooms.py --figures    sizes, circles, and what a training's imports lead to
    python docs/rooms.py --passed     the files that a small training runs before its first step

A room is a package or a module directly under `unpaired`; nothing here knows one by name. Another
checkout is measured with `--source PATH/src/unpaired`.
"""

import argparse
import ast
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import FrameType

SOURCE = Path(__file__).resolve().parents[1] / "src" / "unpaired"
PACKAGE = SOURCE.name
SMALL_FILE_LINES, MANY_PARAMETERS = 60, 6
TRAIN = "unpaired.cli.train"
HEAD = """# The rooms

Written by `make map` from the imports of the code; a test holds it. A room is a package or a module
directly under `src/unpaired`; its purpose is the first sentence of its docstring. A room imports
rooms of lower levels only. What may go where is said in `docs/extend.md`, and which room a change
belongs into in `CONTRIBUTING.md`.
"""
GRAPH_NOTE = "An arrow that follows from two others is left out."

Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Module:
    """One source file, by its dotted name."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def room(self) -> str:
        """Empty for the package itself."""
        return self.name.split(".")[1] if "." in self.name else ""

    @property
    def purpose(self) -> str:
        """The first sentence of the docstring."""
        text = " ".join((ast.get_docstring(self.tree) or "").split())
        return text.split(". ")[0].rstrip(".")


def read_modules(source: Path) -> dict[str, Module]:
    """Every module under the package's folder."""
    modules = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = Module(name, path)
    return modules


def imported(module: Module, known: Mapping[str, Module], depth: bool = True) -> frozenset[str]:
    """Which of our modules it imports, for typing alone left out.

    Args:
        depth: also inside functions.
    """
    names = set()
    for node in _nodes(module.tree, depth):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in known else str(node.module) for name in inner}
    return frozenset(names & known.keys() - {module.name})


def _nodes(tree: ast.Module, depth: bool) -> Iterator[ast.AST]:
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        if not depth and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        todo += ast.iter_child_nodes(node)


def room_graph(modules: Mapping[str, Module]) -> dict[str, frozenset[str]]:
    """Room -> the rooms that its files import."""
    graph: dict[str, set[str]] = {module.room: set() for module in modules.values() if module.room}
    for module in modules.values():
        if module.room:
            rooms = {modules[name].room for name in imported(module, modules)}
            graph[module.room] |= rooms - {module.room, ""}
    return {room: frozenset(below) for room, below in graph.items()}


def reached(graph: Graph, start: str) -> set[str]:
    """Everything that `start` leads to, itself only where a circle leads back."""
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph[name]
    return seen


def circles(graph: Graph) -> list[list[str]]:
    """The largest sets whose members all lead to each other."""
    below = {name: reached(graph, name) for name in graph}
    groups = {
        tuple(sorted(n for n in below[name] if name in below[n]))
        for name in graph
        if name in below[name]
    }
    return sorted(map(list, groups))


def levels(graph: Graph) -> dict[str, int]:
    """0 for a room that imports none, else one more than the highest below it.

    Rooms that import each other share a level.
    """
    below = {room: reached(graph, room) for room in graph}
    truly = {room: {b for b in below[room] if room not in below[b]} for room in graph}
    found: dict[str, int] = {}
    for room in sorted(graph, key=lambda room: len(truly[room])):
        found[room] = 1 + max((found[b] for b in truly[room]), default=-1)
    return found


def direct(graph: Graph) -> dict[str, list[str]]:
    """The arrows that no longer way through other rooms replaces."""
    below = {room: reached(graph, room) for room in graph}
    far = {r: {n for b in graph[r] if r not in below[b] for n in below[b]} for r in graph}
    return {room: sorted(graph[room] - far[room]) for room in graph}


def draw(modules: Mapping[str, Module]) -> str:
    """The text of docs/architecture.md."""
    graph = room_graph(modules)
    level = levels(graph)
    purpose = {m.room: m.purpose for m in modules.values() if m.name.count(".") == 1}
    order = sorted(graph, key=lambda room: (-level[room], room))
    rows = [
        f"| {level[room]} | `{room}` | {purpose[room]} | {', '.join(sorted(graph[room])) or '-'} |"
        for room in order
    ]
    table = ["| level | room | purpose | imports |", "|---|---|---|---|", *rows]
    arrows = [f"    {room} --> {below}" for room in order for below in direct(graph)[room]]
    picture = ["```mermaid", "graph TD", *arrows, "```"]
    return "\n".join([HEAD, *table, "", GRAPH_NOTE, "", *picture, ""])


def figures(modules: Mapping[str, Module]) -> list[tuple[str, object]]:
    """What the layout is judged by."""
    graph = {name: imported(module, modules) for name, module in modules.items()}
    inner = {n: below - {PACKAGE} for n, below in graph.items() if n != PACKAGE}
    at_import = {name: imported(module, modules, depth=False) for name, module in modules.items()}
    importers = {name: sum(name in below for below in graph.values()) for name in modules}
    small = [m.name for m in modules.values() if m.lines < SMALL_FILE_LINES]
    functions = [f for m in modules.values() for f in _functions(m)]
    sizes = sorted(f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno)
    rows: list[tuple[str, object]] = [
        ("files", len(modules)),
        ("lines", sum(m.lines for m in modules.values())),
        ("median lines of a file", median(m.lines for m in modules.values())),
        ("longest file", max(m.lines for m in modules.values())),
        (f"files under {SMALL_FILE_LINES} lines", len(small)),
        ("files with one importer", sum(n == 1 for n in importers.values())),
        (
            f"files under {SMALL_FILE_LINES} lines with one importer",
            sum(importers[name] == 1 for name in small),
        ),
        ("functions", len(functions)),
        ("lines of a function, median / 90 % / most", _spread(sizes)),
        (
            f"functions with more than {MANY_PARAMETERS} parameters",
            sum(_parameters(f) > MANY_PARAMETERS for f in functions),
        ),
        ("circles of imports at the top of files", circles(at_import) or "none"),
        ("circles of imports anywhere below the face", circles(inner) or "none"),
        ("circles of rooms", circles(room_graph(modules)) or "none"),
    ]
    if TRAIN in modules:
        rows.append((f"files that {TRAIN} leads to", len(reached(graph, TRAIN)) + 1))
    rooms = sorted({m.room for m in modules.values()})
    counts = {room: sum(m.room == room for m in modules.values()) for room in rooms}
    return [*rows, *((f"files of {room or 'the package itself'}", n) for room, n in counts.items())]


def _functions(module: Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(module.tree)
    return [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without self or cls, and without *args and **kwargs."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    return len(names) + len(function.args.kwonlyargs) - (names[:1] in (["self"], ["cls"]))


def _spread(sizes: Sequence[int]) -> str:
    return f"{median(sizes):.0f} / {sizes[len(sizes) * 9 // 10]} / {sizes[-1]}"


def passed(source: Path) -> Counter[str]:
    """How many files of each room run, imports aside, before the first step of `unpaired train`.

    Raises:
        RuntimeError: the training ended before it.
    """
    import torch

    sys.path.insert(0, str(source.parent))
    from unpaired.cli import main as program

    ran: set[Path] = set()
    steps = 0

    def first_step(*_: object, **__: object) -> None:
        nonlocal steps
        steps += 1
        raise KeyboardInterrupt

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and frame.f_code.co_name != "<module>" and source in path.parents:
            ran.add(path.relative_to(source))

    torch.Tensor.backward = first_step  # type: ignore[method-assign]
    with TemporaryDirectory() as root, contextlib.suppress(SystemExit):
        call = ["train", "--out", f"{root}/run", "data.workers=0", "data.patch=[32, 32]"]
        for modality in ("aa", "bb"):
            call += ["--data", f"{modality}={write_boxes(Path(root), modality)}"]
        sys.setprofile(note)
        try:
            program(call)
        finally:
            sys.setprofile(None)
    if not steps:
        raise RuntimeError("the training ended before its first step; see what it said above.")
    return Counter(path.parts[0].removesuffix(".py") for path in ran)


def write_boxes(root: Path, modality: str) -> Path:
    """Four scans of a box, in the nnU-Net layout; returns their folder."""
    import nibabel
    import numpy

    voxels = numpy.zeros((40, 36, 10), numpy.uint8)
    voxels[8:20, 8:20, 2:8] = 1
    image = nibabel.Nifti1Image(voxels, numpy.diag([1.0, 1.0, 3.0, 1.0]))
    for part, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
        (root / modality / part).mkdir(parents=True)
        for case in range(4):
            nibabel.save(image, root / modality / part / f"c{case}{ending}.nii.gz")
    about = {
        "channel_names": {"0": modality},
        "labels": {"background": 0, "box": 1},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (root / modality / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    return root / modality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", action="store_true", help="print the figures of the layout")
    parser.add_argument("--source", type=Path, default=SOURCE, help="the package's folder")
    parser.add_argument("--passed", action="store_true", help="run a training up to its first step")
    given = parser.parse_args()
    source = given.source.resolve()
    modules = read_modules(source)
    if given.passed:
        counts = passed(source)
        each = ", ".join(f"{room} {n}" for room, n in counts.most_common())
        print(f"files that run before the first step: {counts.total()} ({each})")
    elif given.figures:
        print("\n".join(f"{name}: {value}" for name, value in figures(modules)))
    else:
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # the same file on every system
        sys.stdout.write(draw(modules))


if __name__ == "__main__":
    main()
