"""Import a miniature and open what came of it."""

from unpaired.datasets.sources import open_dataset
from unpaired.importing.run import import_source


def imported(source, archive, out, options=None, **more):
    """The outcome, and modality -> the opened data set."""
    outcome = import_source(source, archive, out, options, workers=1, **more)
    return outcome, {key: open_dataset(key, folder) for key, folder in outcome.folders.items()}


def ids(dataset, held_out=False):
    """Case ids of imagesTr, or of imagesTs."""
    return [case.id for case in dataset.cases if case.held_out is held_out]


def tree(folder):
    """Relative path -> content, of every file."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
