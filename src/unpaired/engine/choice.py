"""Which weights of a run become its model."""

import math
from typing import Any

from unpaired.config import TrainConfig

SMOOTHING = 0.9
"""Share of the past in the smoothed score, as nnU-Net has it for its best checkpoint."""


class Choice:
    """The last weights, or those whose smoothed validation score is highest (decision D107).

    A score of few validation cases jumps; choosing its highest single value chooses noise. The
    smoothed score is s <- 0.9 s + 0.1 score, from the first score on.
    """

    def __init__(self, options: TrainConfig) -> None:
        self.keeps_last = options.keep == "last" or (
            options.keep == "auto" and options.early_stop is None
        )
        self.score = self.smoothed = self.best = self.best_score = float("nan")
        self.best_epoch = 0

    @property
    def kept_score(self) -> float:
        """The validation score of the weights that are kept; nan before the first validation."""
        return self.score if self.keeps_last else self.best_score

    def better(self, score: float, epoch: int) -> bool:
        """Take in a validation score; whether these weights are the ones to keep now.

        Without validation cases every score is nan, and the newest weights count.
        """
        self.score = score
        past = score if math.isnan(self.smoothed) else self.smoothed
        self.smoothed = past + (1 - SMOOTHING) * (score - past)
        if math.isnan(score) or math.isnan(self.best) or self.smoothed > self.best:
            self.best, self.best_epoch, self.best_score = self.smoothed, epoch, score
            return not self.keeps_last
        return False

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        names = ("score", "smoothed", "best", "best_score", "best_epoch")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; raises KeyError where it is not whole."""
        for name in self.state():
            setattr(self, name, state[name])
