"""How much a training may take, and how many steps that gives."""

import re
from dataclasses import dataclass

from unpaired.config import TrainConfig
from unpaired.errors import UsageError

UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
QUICK_SECONDS = 600.0
ON_CPU_SECONDS, ON_GPU_SECONDS = 3600.0, 12 * 3600.0
# Of the budget, for what cannot be measured before: other work on the machine, the last export.
_MARGIN = 0.05
# The most of a budget that validation may take.
_VALIDATION = 0.10
# Nearer to the plan the number of steps stays, so that the same call twice trains alike.
_TOLERANCE = 0.05
PACE = "pace"
"""Why a loop ended whose training goes on with another number of steps."""
MOST_VALIDATIONS, FEWEST_VALIDATIONS = 20, 3


def parse_budget(text: str) -> float:
    """ "30m" -> 1800 seconds.

    Raises:
        UsageError: it is no number with a unit, or not above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = match[2].casefold() if match else ""
    if match is None or unit not in UNITS:
        what = f"the unit {match[2]!r} is unknown" if match and unit else "it has no unit"
        raise UsageError(
            f"--budget {text}: {what}; write a number and s, m, h or d, such as 30m, 8h or 2d."
        )
    seconds = float(match[1]) * UNITS[unit]
    if seconds <= 0:
        raise UsageError(f"--budget {text}: nothing can be trained in no time; give more.")
    return seconds


class TooLittleTimeError(UsageError):
    """No network fits a budget; `seconds` are needed for the smallest."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True)
class Cost:
    """Seconds that parts of a training take.

    Attributes:
        before: until the first step: reading, preparing, building.
        step: one step.
        validation: one validation.
    """

    before: float
    step: float
    validation: float


@dataclass(frozen=True)
class Schedule:
    """Steps that fit a budget, and after how many of them there is a validation."""

    steps: int
    every: int
    seconds: float

    @property
    def validations(self) -> int:
        """How many there are."""
        return -(-self.steps // self.every)


def schedule(budget: float, cost: Cost, limit: int | None = None) -> Schedule:
    """As many steps as fit, with validations in between; no steps where nothing fits.

    Args:
        limit: no more steps than these.
    """
    left = budget * (1 - _MARGIN) - cost.before
    wanted = int(_VALIDATION * budget / cost.validation) if cost.validation > 0 else 99
    validations = min(MOST_VALIDATIONS, max(FEWEST_VALIDATIONS, wanted))
    steps = int((left - validations * cost.validation) / cost.step)
    if limit is not None:
        steps = min(steps, limit)
    if steps < 1:
        return Schedule(0, 1, cost.before)
    steps = _round_down(steps)
    validations = min(validations, steps)
    every = -(-steps // validations)
    spent = cost.before + steps * cost.step + validations * cost.validation
    return Schedule(steps, every, spent)


def paced(options: TrainConfig, step: int, seconds: float) -> TrainConfig | None:
    """More or fewer steps, as many as `pace_minutes` hold at the pace so far; None where those
    planned do. Another program on the machine can make every step slower than the measured one.

    Up to the end of the warm-up the rate does not depend on the number of steps, so the training
    is the one that would have been planned so.

    Args:
        step, seconds: how many steps were taken, and in what time, at the end of the warm-up.
    """
    if options.pace_minutes is None or step != options.warmup_steps or step >= options.steps:
        return None
    left = max(0.0, 60 * options.pace_minutes - seconds)
    steps = step + max(1, int(left * step / seconds))
    if abs(steps - options.steps) <= _TOLERANCE * options.steps:
        return None
    steps = max(step + 1, _round_down(steps))
    every = options.steps_per_epoch
    if every is not None:  # as many validations as before
        every = -(-steps // -(-options.steps // every))
    return options.model_copy(update={"steps": steps, "steps_per_epoch": every})


def needed_seconds(steps: int, cost: Cost) -> float:
    """The budget that so many steps need."""
    return (cost.before + steps * cost.step + FEWEST_VALIDATIONS * cost.validation) / (1 - _MARGIN)


def as_budget(seconds: float) -> str:
    """As `--budget` takes it, rounded up."""
    minutes = int(seconds / 60) + 1
    return f"{minutes}m" if minutes < 120 else f"{-(-minutes // 60)}h"


def _round_down(steps: int) -> int:
    """To three digits: 1234 -> 1230."""
    digits = 10 ** max(0, len(str(steps)) - 3)
    return steps // digits * digits
