"""inputs.json: what a run is trained on, by the sha256 of its files, and which changes it took."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unpaired.datasets.dataset import Case
from unpaired.errors import DataError
from unpaired.files import printable, read_json, sha256_of, write_json
from unpaired.io.read import files_of
from unpaired.progress import Progress

VERSION = 1
SPLIT = "splits_final.json"
"""The input that is the run's own split."""
Named = dict[str, tuple[Path, ...]]
"""What an input is called in messages -> its files."""


@dataclass(frozen=True)
class Inputs:
    """What is recorded of a run.

    Attributes:
        files: name of an input, such as "t1/case_03 image" -> sha256.
        accepted: changes that the run went on with: "when" (UTC), "step" and "changed" (names).
    """

    files: Mapping[str, str] = field(default_factory=dict)
    accepted: tuple[Mapping[str, Any], ...] = ()

    def write(self, path: Path) -> None:
        """Write as JSON, with a checksum."""
        content = {"version": VERSION, "files": dict(self.files), "accepted": list(self.accepted)}
        write_json(path, content, seal=True)

    def changed(self, now: Mapping[str, str]) -> list[str]:
        """Names of the inputs that are not what they were; what is in one of both only is not."""
        return [name for name, digest in self.files.items() if now.get(name, digest) != digest]


def read_inputs(path: Path) -> Inputs:
    """Read inputs.json; empty where there is none, as in runs of earlier versions.

    Raises:
        DataError: it is damaged.
    """
    if not path.exists():
        return Inputs()
    content = read_json(path)
    try:
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}")
        return Inputs(dict(content["files"]), tuple(content["accepted"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{printable(path)} is not what training writes ({error!r}). Restore it from a copy."
        ) from error


def inputs_of(cases: Iterable[Case]) -> Named:
    """The images and the label of cases, by name; of a DICOM series every file counts."""
    named: Named = {}
    for case in cases:
        several = len(case.images) > 1
        for number, image in enumerate(case.images):
            what = f"image {number}" if several else "image"
            named[f"{case.modality}/{case.id} {what}"] = files_of(image)
        if case.label is not None:
            named[f"{case.modality}/{case.id} label"] = files_of(case.label)
    return named


def digests_of(
    named: Mapping[str, Sequence[Path]], known: dict[str, str], progress: Progress | None = None
) -> dict[str, str]:
    """Name -> sha256; of several files that of theirs, whatever they are called.

    Args:
        known: path -> sha256 of files that were read already; the others are added.

    Raises:
        DataError: a file cannot be read.
    """
    paths = {str(path): path for paths in named.values() for path in paths}
    unread = [name for name in paths if name not in known]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: sha256_of(paths[name]), unread)
        for done, (name, digest) in enumerate(zip(unread, found, strict=True), 1):
            known[name] = digest
            if progress is not None:
                progress(done, len(unread), "compare")
    return {name: _joined([known[str(path)] for path in paths]) for name, paths in named.items()}


def _joined(digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def changed_cases(recorded: Inputs, cases: Iterable[Case]) -> list[str]:
    """Names of the images and labels that are not those the run was trained on.

    Raises:
        DataError: a file cannot be read.
    """
    named = {name: paths for name, paths in inputs_of(cases).items() if name in recorded.files}
    return recorded.changed(digests_of(named, {}))
