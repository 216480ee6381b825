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
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _same_allowed import (
    HARMLESS_FILES,
    HARMLESS_KEYS,
    HARMLESS_TEXT,
    NEW_HELP,
    NEW_KEYS,
    NEW_LINES,
    NEW_SECTIONS,
    NEW_VALUES,
    SCRATCH_FILES,
)

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
    if isinstance(a, Lines) and isinstance(b, Lines):
        return _texts(a, b, at)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        only = (
            sorted(str(k) for k in a.keys() - b.keys() if k not in HARMLESS_KEYS),
            sorted(str(k) for k in b.keys() - a.keys() if k not in NEW_KEYS),
        )
        if any(only):
            return f"{at}: only in base {only[0][:3]}, only in the tree {only[1][:3]}"
        both = a.keys() & b.keys()
        same = {*HARMLESS_KEYS, *(k for k in both if NEW_VALUES.get(k) == (a[k], b[k]))}
        pairs = ((k, a[k], b[k]) for k in a if k in both and k not in same)
        return _first(difference(x, y, f"{at}.{k}") for k, x, y in pairs)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{at}: {len(a)} and {len(b)} entries"
        pairs = enumerate(zip(a, b, strict=True))
        return _first(difference(x, y, f"{at}[{i}]") for i, (x, y) in pairs)
    if type(a) is type(b) and (a == b or (a != a and b != b)):
        return None
    number = isinstance(a, int | float) and isinstance(b, int | float)
    return f"{at}: {_short(a)} and {_short(b)}" + (f" (by {abs(a - b):.3g})" if number else "")


class Lines(list[str]):
    """Of a text, without what may differ."""


def _texts(a: Lines, b: Lines, at: str) -> str | None:
    """Where two texts differ first; lines that are known to be later may be in `b` alone."""
    known = set(a)
    kept = [line for line in b if line in known or not re.fullmatch(NEW_LINES, line)]
    pairs = enumerate(zip_longest(a, kept, fillvalue="nothing more"), 1)
    return next((f"{at}.{n}: {_short(x)} and {_short(y)}" for n, (x, y) in pairs if x != y), None)


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


def _lines(data: bytes) -> Lines:
    """Lines, without what may differ; what vanishes altogether is no line."""
    text = data.decode()
    if text.lstrip().startswith("Usage:"):  # help, broken into lines by its length
        return _help(text)
    for pattern in HARMLESS_TEXT:
        text = re.sub(pattern, "*", text, flags=re.MULTILINE)
    # What stands beside a number that varies is padded by its length.
    padded = (re.sub(" +", " ", line) if "*" in line else line for line in text.splitlines())
    kept = (line.rstrip(" *") for line in padded)
    return Lines(line for line in kept if line.strip("* "))


def _help(text: str) -> Lines:
    words = " ".join(text.replace("...", ".").split())
    for phrase in NEW_HELP:
        words = words.replace(phrase, "")
    return Lines([words])


class _Page(HTMLParser):
    """What a reader sees: words, cell by cell, and pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.hidden = self.value = self.heading = self.new = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden = tag in ("style", "script")
        self.value = tag == "dd"
        self.heading = tag in ("h1", "h2", "h3")
        if not self.new and (source := dict(attrs).get("src")):
            kind, _, code = source.partition("base64,")
            digest = hashlib.sha256(base64.b64decode(code)).hexdigest() if code else source
            self.seen.append(f"picture {kind} {digest}")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = self.heading = False

    def handle_data(self, data: str) -> None:
        words = " ".join(data.split())
        if self.heading and words:
            self.new = words in NEW_SECTIONS
        if self.new:
            return
        if words and self.value:  # on the line of its name
            self.seen[-1] += f" = {words}"
            self.value = False
        elif words and not self.hidden:
            self.seen.append(words)


def _html(data: bytes) -> Lines:
    page = _Page()
    page.feed(data.decode())
    return _lines("\n".join(page.seen).encode())


def _torch(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _safetensors(data: bytes) -> dict[str, Any]:
    from safetensors.torch import load

    size = int.from_bytes(data[:8], "little")
    about = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    described = {k: json.loads(v) if v.startswith("{") else v for k, v in about.items()}
    return {"tensors": load(data), "metadata": described}


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


def _nrrd(data: bytes) -> dict[str, Any]:
    header, _, values = data.partition(b"\n\n")
    return {"header": _lines(header), "values": gzip.decompress(values)}


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
    "*.nrrd": _nrrd,
    "*.png": _png,
    "*.zip": _zip,
    "*.onnx": _onnx,
    "*.pt2": _pt2,
    "*.toml": lambda data: tomllib.loads(data.decode()),
    **dict.fromkeys(("*.txt", "*.csv", "*.md", "*.ctbl"), _lines),
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
