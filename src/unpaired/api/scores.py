"""Scores of a run's cases, to read, to average and to hand on."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unpaired.errors import UsageError
from unpaired.files import write_text
from unpaired.names import did_you_mean
from unpaired.run.scores import METRICS, Evaluation, Summary, markdown, summarise, value_of


@dataclass(frozen=True, repr=False)
class Scores:
    """Dice, ASD, HD95 and NSD of every class of every case; its `repr` is a table.

    Dice and NSD are in [0, 1], distances in millimetres; nan is undefined (docs/data.md).
    """

    evaluation: Evaluation

    def __repr__(self) -> str:
        return markdown(self.evaluation)

    def __len__(self) -> int:
        return len(self.evaluation.scores)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """A row per case and class: modality, case, class, the metrics, the voxels."""
        for one in self.evaluation.scores:
            row: dict[str, Any] = {"modality": one.modality, "case": one.case, "class": one.cls}
            row |= {name: value_of(one, name) for name in (*METRICS, *one.extra)}
            row["truth_voxels"] = one.truth_voxels
            row["prediction_voxels"] = one.prediction_voxels
            yield row

    @property
    def summary(self) -> Summary:
        """Mean, deviation and counts by modality, class and metric."""
        return summarise(self.evaluation.scores)

    @property
    def failures(self) -> dict[str, str]:
        """Case -> why it could not be scored."""
        return dict(self.evaluation.failures)

    def mean(
        self, metric: str = "dice", modality: str | None = None, cls: str | None = None
    ) -> float:
        """The mean over cases, of one class or over the classes' means, of one modality or all.

        Raises:
            UsageError: an unknown metric, modality or class.
        """
        summary = self.summary
        chosen = list(summary) if modality is None else [_known("modality", modality, summary)]
        values = []
        for m in chosen:
            part = summary[m]
            if cls is not None:
                part = part["classes"][_known("class", cls, part["classes"])]
            else:
                part = part["mean"]
            metrics = [name for name in part if name != "n_absent"]
            values.append(part[_known("metric", metric, metrics)]["mean"])
        return float(np.mean(values))

    def to_csv(self, path: str | Path) -> None:
        """Write a row per case and class."""
        rows = list(self)
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(rows)
        write_text(Path(path).expanduser(), text.getvalue())

    def to_pandas(self) -> Any:
        """A DataFrame with a row per case and class.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UsageError("to_pandas needs pandas: pip install pandas.") from error
        return pandas.DataFrame(list(self))


def _known(what: str, name: str, known: Any) -> str:
    if name not in known:
        hint = did_you_mean(name, known)
        raise UsageError(f"there is no {what} {name!r}.{hint} Known: {', '.join(known)}.")
    return name
