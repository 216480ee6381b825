"""The run folder: names of its files, its lock, and what the environment was."""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch
from filelock import FileLock, Timeout

from unpaired.errors import ResourceError, UsageError
from unpaired.files import write_json

PACKAGES = ("unpaired", "torch", "numpy", "scipy", "nibabel", "isal", "safetensors", "pydantic")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def splits(self) -> Path:
        return self.root / "splits_final.json"

    @property
    def data(self) -> Path:
        return self.root / "data.json"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def log(self) -> Path:
        return self.root / "log.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.csv"

    @property
    def last(self) -> Path:
        return self.root / "checkpoints" / "last.pt"

    @property
    def kept(self) -> Path:
        """Weights of the model that the run yields: the last, or the best on validation."""
        return self.root / "checkpoints" / "kept.pt"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def semantics(self) -> Path:
        return self.root / "semantics.npz"

    @property
    def pretrained(self) -> Path:
        return self.root / "pretrained.json"

    @property
    def prepared(self) -> Path:
        return self.root / "prepared"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder: two runs on one folder would overwrite each other.

        Raises:
            UsageError: another process holds it.
            ResourceError: it cannot be written.
        """
        lock = FileLock(self.root / ".lock", blocking=False)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            held = lock.acquire()
        except Timeout as error:
            raise UsageError(
                f"another process is training in {self.root}. Wait for it, or choose another --out."
            ) from error
        except OSError as error:
            raise ResourceError(
                f"cannot write the run folder {self.root}: {error.strerror}. Choose another --out."
            ) from error
        with held:
            yield

    def write_environment(self) -> None:
        """Versions and machine, for the report."""
        write_json(self.environment, describe_environment())


def describe_environment() -> dict[str, object]:
    """Versions and machine."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: _version(name) for name in PACKAGES},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
