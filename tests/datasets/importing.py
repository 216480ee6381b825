"""Import a miniature and open what came of it."""

from dataclasses import replace

from unpaired.datasets.sources import open_dataset
from unpaired.importing.run import ImportOptions, import_source


def imported(source, archive, out, options=None, progress=None, **more):
    """The outcome, and modality -> the opened data set; `more`: further options."""
    options = replace(options or ImportOptions(), workers=1, **more)
    outcome = import_source(source, archive, out, options, progress)
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
