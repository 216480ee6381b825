"""nnU-Net v2 in an environment of its own.

    python benchmarks/nnunet/install.py FOLDER

Makes the environment in FOLDER (one that is there is completed) from requirements.lock, pinned and
without looking for more: nnU-Net's own list would bring torchvision, and with it another torch. The
torch is ours, of the same version; one that lies in the environment already is kept.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

LOCK = Path(__file__).with_name("requirements.lock")
OURS = Path(__file__).resolve().parents[2] / "requirements.lock"
CHECK = (
    "import nnunetv2.training.nnUNetTrainer.nnUNetTrainer, torch;"
    "from importlib.metadata import version;"
    "print('nnU-Net', version('nnunetv2'), 'torch', torch.__version__)"
)


def torch_pin() -> str:
    """The line of our lock file: both tools are compared on one torch."""
    lines = OURS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def install(folder: Path) -> Path:
    """Make or complete the environment; returns its Python."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, torch_pin()], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(LOCK)], check=True)
    subprocess.run([str(python), "-c", CHECK], check=True)
    return python


def main() -> None:
    """One argument: the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    print(f"Use: --nnunet {install(parser.parse_args().folder)}")


if __name__ == "__main__":
    main()
