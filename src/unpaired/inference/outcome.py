"""What became of a list of cases."""

from dataclasses import dataclass
from pathlib import Path

from unpaired.errors import DataError


@dataclass(frozen=True)
class Outcome:
    """What became of the cases; every case is in one of the three.

    Attributes:
        written, kept: case -> label file; kept were whole and of the same model already.
        failures: case -> what was wrong and how to mend it.
        notes: case -> what was odd, yet accepted.
    """

    written: dict[str, Path]
    kept: dict[str, Path]
    failures: dict[str, str]
    notes: dict[str, tuple[str, ...]]

    def raise_failures(self) -> None:
        """Raise DataError if a case failed, with the list."""
        if self.failures:
            count = len(self.failures) + len(self.written) + len(self.kept)
            lines = "\n".join(f"  {case}: {why}" for case, why in self.failures.items())
            raise DataError(
                f"{len(self.failures)} of {count} cases could not be predicted, the others are "
                f"done:\n{lines}\nMend these and run the same command again."
            )
