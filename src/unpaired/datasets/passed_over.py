"""What the folder of a data set holds beside its cases, and whether it has as many as it says."""

from collections.abc import Iterator
from pathlib import Path

from unpaired.datasets.dataset import Dataset
from unpaired.datasets.dataset_json import read_about
from unpaired.errors import DataError
from unpaired.io.read import others_in
from unpaired.names import plural, printable, some

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


def remarks(dataset: Dataset) -> list[str]:
    """A sentence for each: files that belong to no case, another number of cases than is said."""
    found = [sentence for sentence, _ in miscounted(dataset)]
    if left := passed_over(dataset):
        found.append(passed_over_sentence(left))
    return [f"{printable(dataset.root)}: {sentence}." for sentence in found]


def passed_over(dataset: Dataset) -> list[Path]:
    """What lies in the folders of images and labels and belongs to no case; see `others_in`."""
    used = [path for case in dataset.cases for path in (*case.images, case.label)]
    left: list[Path] = []
    for folder in (dataset.root / name for name in FOLDERS):
        try:
            left += others_in(folder, {path for path in used if path and path.parent == folder})
        except OSError:  # not there: another layout, or no test cases
            continue
    return left


def passed_over_sentence(files: list[Path]) -> str:
    """ "2 files are passed over, since they belong to no case: imagesTr/a.txt, imagesTr/b.img"."""
    names = some([f"{path.parent.name}/{path.name}" for path in files])
    are, they = ("is", "it belongs") if len(files) == 1 else ("are", "they belong")
    return f"{plural(len(files), 'file')} {are} passed over, since {they} to no case: {names}"


def miscounted(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Where dataset.json says another number of cases than there are: a sentence, both numbers."""
    try:
        about = read_about(dataset.root / "dataset.json")
    except DataError:  # layouts without one
        return
    cases = dataset.cases
    counts = {
        "numTraining": sum(not case.held_out for case in cases),
        "numTest": sum(case.held_out for case in cases),
    }
    if not counts["numTest"]:  # the Decathlon keeps test scans to itself
        del counts["numTest"]
    for key, there in counts.items():
        said = about.get(key)
        if isinstance(said, int) and not isinstance(said, bool) and said != there:
            are = "is" if there == 1 else "are"
            what = f"dataset.json says {key} {said}, but {plural(there, 'such case')} {are} there"
            yield what, f"{there} of {said} cases"
