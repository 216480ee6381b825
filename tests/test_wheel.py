"""The wheel holds everything that the program needs, and works without this checkout."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
PARTS = ("src", "pyproject.toml", "README.md", "LICENSE")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (importlib.util.find_spec("setuptools") and importlib.util.find_spec("pip")),
        reason="building a wheel takes pip and setuptools",
    ),
]


def call(*command: str, **settings: str) -> str:
    """What the command printed; a failure shows all of it."""
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | settings
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves files beside what it builds, and reads old ones."""
    copy = tmp_path_factory.mktemp("copy")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=unwanted)
        else:
            shutil.copy(ROOT / part, copy / part)
    call(*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(copy / "dist"), str(copy))
    (built,) = (copy / "dist").glob("unpaired-*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    source = ROOT / "src"
    ours = {
        path.relative_to(source).as_posix()
        for path in (source / "unpaired").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("unpaired/")}
    assert {"unpaired/py.typed", "unpaired/presets/default.toml"} <= packed
    assert packed == ours


def test_it_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [*PIP, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    call(*install)
    program = shutil.which("unpaired", path=str(site / "bin")) or ""
    bare = {"PYTHONPATH": str(site)}
    assert "predict" in call(program, "--help", **bare)
    read = (
        "import unpaired; from unpaired.config import load_config\n"
        "print(unpaired.__file__, load_config('abdomen-3d').data.dims)"
    )
    where, dims = call(sys.executable, "-c", read, **bare).split()
    assert Path(where).is_relative_to(site)
    assert dims == "3"
