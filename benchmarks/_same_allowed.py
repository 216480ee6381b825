"""What two runs of one program, or of a later one, may differ in; each with its reason."""

_CALL = "how a run's process was called; since, through a pipe"
HARMLESS_FILES = {
    "*.lock": "empty",
    "*/environment.json": "machine, versions and command line",
    "*/report/overlay_*.png": "the colours and outlines of classes, since the same everywhere",
    "*/report/validation_*.png": "the same",
    "*runs/table5.*": "the page of a study: its rows and headings are since as the paper has them; "
    "the records behind it are compared themselves",
    "*said/00 reproduce.txt": "the same",
}
SCRATCH_FILES = {
    "*/job.json": _CALL,
    "*/job.toml": _CALL,
    "*/inputs.json": "the sha256 of what a run is trained on; later than a154ab3, as are the next",
    "*/checkpoints/previous.pt": "the state before the last",
    "*plausibility.csv": "what of a prediction is odd",
    "*plausibility.json": "the same",
    "*/checkpoints/validated.json": "what validation gave, beside which that is judged",
    "*/folds.json": "that folds are one model",
    "*/threads.json": "the number of threads that was measured",
    "*/choices.json": "why a planned run is as it is",
}
"""What may be there on one side only, and what it is."""
NEW_KEYS = {
    "checksum": "of a stored file",
    "range": "of a prepared image's intensities",
    "levels": "what the intensities of the training images reach",
    "heartbeat_seconds": "a setting",
    "norms": "a setting, as are the next",
    "average": "",
    "fused": "",
    "pace_minutes": "",
    "modules": "",
    "consistency": "",
    "rich": "",
    "ramp": "",
    "cap": "",
    "view_weight": "",
    "gin": "",
    "second_view": "",
    "model.norms": "the same in a record, as are the next",
    "train.average": "",
    "train.fused": "",
    "train.pace_minutes": "",
    "model.modules": "",
    "loss.consistency": "",
    "loss.rich": "",
    "loss.ramp": "",
    "loss.cap": "",
    "loss.view_weight": "",
    "augment.gin": "",
    "augment.second_view": "",
    "described/norm": "of correlations, in semantics.npz, as are the next",
    "described/entropy": "",
    "described/within": "",
    "described/across": "",
    "images": "of a step, in the state of a training",
    "kept_step": "in the state of a training",
    "sha256": "of a scan or a prepared array, which is compared itself",
    "annotated": "of a prepared case: whether its whole label is known",
    "class_mm3": "of a prepared case: how much of each class its label holds",
    "meaning": "what the labels of a data set mean",
    "expected": "of a plan: what predictions are compared with",
    "measures": "of a prepared case: what predictions are compared with",
    "odd": "of an evaluation",
    "notes": "of an evaluation: what was left out of it",
    "weights": "of a study: the file that rows start from",
    "pretrained": "of a record: the same",
    "passed_over": "of an evaluation: files that are no scans",
}
"""What the tree alone may hold: later than a154ab3."""
NEW_VALUES = {"format": (1, 2)}
"""Values of base and tree that may differ so: the format of a prepared case."""
NEW_SECTIONS = ("Odd results", "How far the modalities lie apart")
"""Headings of a page that the tree alone may have, each with what follows up to the next."""
NEW_LINES = "|".join(
    (
        r" *\"(notes|passed_over|odd)\": .*",  # as above, in what `--json` prints
        r" *\"checksum\": .*",
        r"(heartbeat_seconds|pace_minutes|norms|average|fused|modules) = .*",
        r"(consistency|rich|ramp|cap|view_weight|gin|second_view) = .*",
        r".*: about \* of memory \(\* free\)\.?",
        r".*\(usually .*\).*",
        r"The mean of the \d+ folds is one model: .*",
        r"## Odd results",
        r"Without looking at the truth, prediction called .*",
        r"\| Case \| Worst class \| What was odd \|.*",
        r"\| \S+/\S+ \| [^|]* \| [^|]* \| [\d.]+ \|",
        r"\| --- \| --- \| --- \| ---: \|",
        r"- Not scored, since there is no truth of the name.*",
    )
)
"""Lines of texts that the tree alone may hold: later than a154ab3."""
NEW_HELP = (
    "; `unpaired settings` lists all",
    "; `unpaired presets` lists them",
    " Without a preset, a file or a network of your own the program plans the training for this "
    "machine and the time, and says why. `unpaired presets` and `unpaired settings` list the rest.",
    " --budget TIME Plan a training of this time: 30m, 8h, 2d. Default: 1 h, on a GPU 12 h.",
    " --quick A first model in ten minutes: --budget 10m.",
    " --accept-changes Go on with changed images, labels or splits.",
    "[:IMAGE]",
    "; their mean is the model of RUN.",
    "A run, the runs of --folds, a choice (best.json) or an export; several: mean.",
    "A run or an exported model; several: mean.",  # as it was
    " --strict Exit 3 if a result is odd.",
    " Of the runs of --folds also the cases that each fold held out.",
    " best Compare runs, and the mean of every two, on the cases that.",
    " benefit Did CT help my MR? Trains each modality alone and all.",
    "; 4:2 is the second image in series 4",
    " --pretrained FILE ImageNet weights for the rows that have them in the paper "
    "(docs/pretrained.md).",
    " settings List the settings of a run, for KEY=VALUE and --config.",
    " presets List the presets for --preset, or what one of them sets.",
)
"""What pages of help have come to say besides, since a154ab3."""
HARMLESS_KEYS = {
    "seconds": "wall clock",
    "versions": "of libraries",
    "forecast": "free memory and measured speed",
    "mtime_ns": "time of a scan's file",
    "sha256": "of a graph's file, which holds lines of source and their paths",
    "description_sha256": "of a description, which is compared itself",
    "config_sha256": "of all settings, of which there are more",
    "digest": "of model and settings, of which there are more",
    "descrip": "of a NIfTI header, derived from that",
    "scans": "digests of scans, since of more of each; an unchanged scan is known by them",
    "_target_": "name of a bundle's loader, the package's own since; a test opens both",
}
HARMLESS_TEXT = {
    r"\bPresets: [\w, -]+": "the names of presets, of which there are more",
    r"\bunpaired [0-9a-f]{16}( [0-9a-f]{16})?$": "digest of model and settings; later, of both",
    r"^\| configuration \| sha256 .*$": "of all settings, of which there are more",
    r",$": "of a line of JSON, which depends on the next",
    r"About .* of memory on .*": "memory that is free and measured speed",
    r"\d+ h \d+ min\b|\b[\d.]+ (s|min|h|minutes|seconds)\b": "wall clock",
    r"[\d.]+ [KMG]iB\b": "memory measured",
    r"^.*\b(Intel|AMD|ARM|Apple)\b.*$": "name of the processor",
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?": "date",
    r"^picture data:image/png;? \S+$": "of a page; each is a file, too, which is compared",
    r"^Segment\d+_Color:=[\d. ]+$": "the colour of a class, since the same as in the report",
    r"(?<=^ {4}\d) +\d+ +\d+ +\d+(?= +\d +[01] +[01] )": "the same, for ITK-SNAP",
    r"(?<= )\d+ \d+ \d+ (?=255$)": "the same, for 3D Slicer",
    r"^\w+ \d+/\d+([ ,].*)?$": "progress, which speaks every ten seconds",
    r"^.*(resource_tracker|warnings\.warn).*$": "of joblib, depends on what else runs",
}
"""What may differ between two runs of one program on one machine, and what it is."""
