"""Write the table of docs/check.md: what `unpaired check` says of the 43 inputs, beside others.

Each input is built by the tests' builders. nibabel and SimpleITK read the odd file here, each in a
process of its own, since a reader may crash; the questions of nnU-Net's integrity check are asked
anew with its reader (`peers/integrity_questions.py`).

    python benchmarks/check_table.py            # write docs/check.md
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from bad_inputs import INPUTS, Bad  # noqa: E402
from said import sentence  # noqa: E402

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
PEERS = {
    "nibabel": (
        "import nibabel as nib, numpy as np\n"
        "image = nib.load(path)\n"
        "array = np.asanyarray(image.dataobj)\n"
        "said = 'x'.join(map(str, array.shape))"
    ),
    "SimpleITK": (
        "import os, SimpleITK as sitk\n"
        "if os.path.isdir(path):\n"
        "    reader = sitk.ImageSeriesReader()\n"
        "    path = reader.GetGDCMSeriesFileNames(path)\n"
        "image = sitk.ReadImage(path)\n"
        "spacing = 'x'.join(f'{s:.3g}' for s in image.GetSpacing())\n"
        "said = 'x'.join(map(str, image.GetSize())) + f' at {spacing} mm'"
    ),
}
QUESTIONS = ROOT / "benchmarks" / "peers" / "integrity_questions.py"
# Of splits and folds it knows nothing, and of manifests.
_NOT_ITS_OWN = ("35 class absent from a fold", "37 none", "38", "39 a patient", "41 case", "41 abs")


def peer(program: str, path: Path) -> str:
    """What another reader makes of the file, in a process of its own."""
    code = (
        "import sys, warnings\nwarnings.simplefilter('ignore')\npath = sys.argv[1]\ntry:\n"
        + "".join(f"    {line}\n" for line in PEERS[program].splitlines())
        + "except Exception:\n    said = 'refused'\nprint('SAID', said)"
    )
    said = _said([sys.executable, "-c", code, str(path)])
    return said if said.startswith(("refused", "crashes")) else f"read, {said}"


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    text = done.stdout.decode(errors="replace")
    if "SAID" not in text:
        return f"crashes (exit code {done.returncode})"
    return text.rpartition("SAID ")[2].strip()


def peers(one: Bad) -> tuple[str, str, str]:
    """nnU-Net's questions, nibabel, SimpleITK."""
    if one.number == "14":  # root, who may be measuring, reads everything
        return "stops: the reader's error", "refused", "refused"
    with tempfile.TemporaryDirectory() as name:
        made = one.build(Path(name).resolve())
        dicom = made.path is not None and made.path.is_dir()
        nibabel = "-" if made.file is None or dicom else peer("nibabel", made.file)
        place = made.path if dicom else made.file
        itk = "-" if place is None else peer("SimpleITK", place)
        nnunet = "-"
        if made.roots and not f"{one.number} {one.name}".startswith(_NOT_ITS_OWN):
            odd = next((r for m, r in made.roots.items() if made.file and r in made.file.parents),
                       next(iter(made.roots.values())))  # fmt: skip
            nnunet = _said([sys.executable, str(QUESTIONS), str(odd)])
    return nnunet, nibabel, itk


def rows() -> list[str]:
    lines = [
        "| | input | `unpaired check` | nnU-Net's check | nibabel | SimpleITK |",
        "|---|---|---|---|---|---|",
    ]
    for one in INPUTS:
        nnunet, nibabel, itk = peers(one)
        lines.append(
            f"| {one.number} | {one.name} | {sentence(one)} | {nnunet} | {nibabel} | {itk} |"
        )
    return lines


def main() -> None:
    page = ROOT / "docs" / "check.md"
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(rows()) + f"\n{END}{after}")


if __name__ == "__main__":
    main()
