"""Whether two files hold the same: tensors, arrays and tables value by value, bit for bit.

A file is compared by what it means. Archives and graphs hold time stamps and the order of their
writing, so a checkpoint is compared tensor by tensor, a compressed image by its unpacked bytes, and
a graph (ONNX, torch.export) by its inputs and by its scores of fixed inputs.
"""

import base64
import gzip
import hashlib
import io
import json
import re
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch

_CALL = "how a run's process was called; since, through a pipe"
HARMLESS_FILES = {"*.lock": "empty", "*/environment.json": "machine, versions and command line"}
SCRATCH_FILES = {
    "*/job.json": _CALL,
    "*/job.toml": _CALL,
    "*/inputs.json": "the sha256 of what a run is trained on; later than a154ab3, as are the next",
    "*/checkpoints/previous.pt": "the state before the last",
    "*/threads.json": "the number of threads that was measured",
    "*/choices.json": "why a planned run is as it is",
}
"""What may be there on one side only, and what it is."""
NEW_KEYS = {
    "checksum": "of a stored file",
    "range": "of a prepared image's intensities",
    "levels": "what the intensities of the training images reach",
    "heartbeat_seconds": "a setting",
    "images": "of a step, in the state of a training",
    "kept_step": "in the state of a training",
}
"""What the tree alone may hold: later than a154ab3."""
HARMLESS_KEYS = {
    "seconds": "wall clock",
    "versions": "of libraries",
    "forecast": "free memory and measured speed",
    "mtime_ns": "time of a scan's file",
    "sha256": "of a graph's file, which holds lines of source and their paths",
    "descrip": "of a NIfTI header, derived from that",
    "_target_": "name of a bundle's loader, the package's own since; a test opens both",
}
HARMLESS_TEXT = {
    r"About .* of memory on .*": "memory that is free and measured speed",
    r"\d+ h \d+ min\b|\b[\d.]+ (s|min|h|minutes|seconds)\b": "wall clock",
    r"[\d.]+ [KMG]iB\b": "memory measured",
    r"^.*\b(Intel|AMD|ARM|Apple)\b.*$": "name of the processor",
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?": "date",
    r"^\w+ \d+/\d+( .*)?$": "progress, which speaks every ten seconds",
    r"^.*(resource_tracker|warnings\.warn).*$": "of joblib, depends on what else runs",
}
"""What may differ between two runs of one program on one machine, and what it is."""


TEXTS = ("*.txt", "*.csv", "*.md", "*.toml", "*.json", "*.jsonl", "*.html")


def different(base: Path, tree: Path, name: str) -> str | None:
    """What differs first between the files `name` of two folders; None where nothing does."""
    if any(fnmatch(f"/{name}", pattern) for pattern in HARMLESS_FILES):
        return None
    a, b = ((folder / name).read_bytes() for folder in (base, tree))
    if any(fnmatch(name, pattern) for pattern in TEXTS):
        a, b = a.replace(bytes(base), b"FOLDER"), b.replace(bytes(tree), b"FOLDER")
    if a == b:
        return None
    read = next((r for pattern, r in READERS.items() if fnmatch(name, pattern)), None)
    if read is None:
        return f"{len(a)} and {len(b)} bytes, which differ"
    return difference(read(a), read(b))


def difference(a: Any, b: Any, at: str = "") -> str | None:
    """Where two nested values differ first, and by how much; nan equals nan."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        a, b = a.detach().numpy(), b.detach().numpy()
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return _arrays(a, b, at)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        new = {k for k in b.keys() - a.keys() if k in NEW_KEYS}
        if a.keys() != b.keys() - new:
            only = (
                sorted(map(str, a.keys() - b.keys())),
                sorted(map(str, b.keys() - a.keys() - new)),
            )
            return f"{at}: only in base {only[0][:3]}, only in the tree {only[1][:3]}"
        return _first(difference(a[k], b[k], f"{at}.{k}") for k in a if k not in HARMLESS_KEYS)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{at}: {len(a)} and {len(b)} entries"
        pairs = enumerate(zip(a, b, strict=True))
        return _first(difference(x, y, f"{at}[{i}]") for i, (x, y) in pairs)
    if type(a) is type(b) and (a == b or (a != a and b != b)):
        return None
    number = isinstance(a, int | float) and isinstance(b, int | float)
    return f"{at}: {_short(a)} and {_short(b)}" + (f" (by {abs(a - b):.3g})" if number else "")


def _first(found: Iterator[str | None]) -> str | None:
    return next((text for text in found if text is not None), None)


def _arrays(a: np.ndarray, b: np.ndarray, at: str) -> str | None:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{at}: {a.dtype} {a.shape} and {b.dtype} {b.shape}"
    if a.tobytes() == b.tobytes():
        return None
    if a.dtype.kind not in "fiub":
        return f"{at}: values differ"
    x, y = a.astype(np.float64), b.astype(np.float64)
    away = int((~((x == y) | (np.isnan(x) & np.isnan(y)))).sum())
    return f"{at}: {away} of {a.size} values, by up to {np.nanmax(np.abs(x - y)):.3g}"


def _short(value: object) -> str:
    text = str(value)
    return repr(text if len(text) < 160 else text[:160] + "...")


def _json(data: bytes) -> Any:
    return json.loads(data)


def _jsonl(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


def _lines(data: bytes) -> dict[str, str]:
    """Line number -> line, without what may differ; what vanishes altogether has no number."""
    text = data.decode()
    for pattern in HARMLESS_TEXT:
        text = re.sub(pattern, "*", text, flags=re.MULTILINE)
    kept = (line.rstrip() for line in text.splitlines())
    return {str(n): line for n, line in enumerate((x for x in kept if x.strip("* ")), 1)}


class _Page(HTMLParser):
    """What a reader sees: words, cell by cell, and pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.hidden = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden = tag in ("style", "script")
        if source := dict(attrs).get("src"):
            kind, _, code = source.partition("base64,")
            digest = hashlib.sha256(base64.b64decode(code)).hexdigest() if code else source
            self.seen.append(f"picture {kind} {digest}")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if data.split() and not self.hidden:
            self.seen.append(" ".join(data.split()))


def _html(data: bytes) -> dict[str, str]:
    page = _Page()
    page.feed(data.decode())
    return _lines("\n".join(page.seen).encode())


def _torch(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _safetensors(data: bytes) -> dict[str, Any]:
    from safetensors.torch import load

    size = int.from_bytes(data[:8], "little")
    about = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return {"tensors": load(data), "metadata": about}


def _npz(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _npy(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _nifti(data: bytes) -> dict[str, Any]:
    import nibabel

    plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    image = nibabel.Nifti1Image.from_bytes(plain)
    header = dict(image.header.items())
    return {"header": header, "values": np.asanyarray(image.dataobj)}


def _png(data: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(data))


def _zip(data: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in sorted(archive.namelist())}


def fixed_input(shape: Sequence[int | str | None], kind: str, patch: int) -> np.ndarray:
    """The same numbers for every graph of that shape: an image, or the index of a modality."""
    sizes = [n if isinstance(n, int) else (2 if i == 0 else patch) for i, n in enumerate(shape)]
    if "float" not in kind:
        return np.zeros(sizes, np.int64)
    return np.random.default_rng(0).standard_normal(sizes, np.float32)


def _onnx(data: bytes) -> dict[str, Any]:
    import onnx
    import onnxruntime

    model = onnx.load_from_string(data)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    given = {i.name: fixed_input(i.shape, i.type, 32) for i in session.get_inputs()}
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    return {
        "inputs": [(i.name, i.shape, i.type) for i in session.get_inputs()],
        "outputs": [(o.name, o.shape, o.type) for o in session.get_outputs()],
        "opset": [(o.domain, o.version) for o in model.opset_import],
        "weights": {n: w for n, w in weights.items() if w.dtype.kind == "f" and w.ndim > 1},
        "scores": session.run(None, given),
    }


def _pt2(data: bytes) -> dict[str, Any]:
    program = torch.export.load(io.BytesIO(data))
    names = program.graph_signature.user_inputs
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.name in names}
    shapes = {n: [d if type(d) is int else None for d in v.shape] for n, v in values.items()}
    given = [fixed_input(shapes[n], str(values[n].dtype), 32) for n in names]
    with torch.no_grad():
        scores = program.module()(*map(torch.from_numpy, given))
    return {"inputs": shapes, "weights": dict(program.state_dict), "scores": scores}


READERS: dict[str, Callable[[bytes], Any]] = {
    "*.jsonl": _jsonl,
    "*.json": _json,
    "*.html": _html,
    "*.pt": _torch,
    "*.safetensors": _safetensors,
    "*.npz": _npz,
    "*.npy": _npy,
    "*.nii": _nifti,
    "*.nii.gz": _nifti,
    "*.png": _png,
    "*.zip": _zip,
    "*.onnx": _onnx,
    "*.pt2": _pt2,
    "*.toml": lambda data: tomllib.loads(data.decode()),
    **dict.fromkeys(("*.txt", "*.csv", "*.md"), _lines),
}


def folders_differ(base: Path, tree: Path, names: Sequence[str]) -> str | None:
    """What differs first among these files below both folders."""
    for name in names:
        here = [(folder / name).is_file() for folder in (base, tree)]
        if not all(here) and not any(fnmatch(f"/{name}", p) for p in SCRATCH_FILES):
            return f"{name}: only in {'base' if here[0] else 'the tree'}"
        found = different(base, tree, name) if all(here) else None
        if found is not None:
            return f"{name} {found}"
    return None
