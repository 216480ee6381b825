"""How often the bootstrap interval holds the truth: simulated cases, seeds and draws.

python benchmarks/interval_coverage.py
"""

from collections.abc import Callable, Iterator

import numpy as np

from unpaired.metrics.bootstrap import bootstrap_interval

TRIALS = 400
Made = tuple[np.ndarray, list[int] | None, list[int] | None]


def alone(n: int, skewed: bool) -> Callable[[np.random.Generator], Made]:
    """Differences of n cases, normal or exponential, of mean 0."""

    def make(rng: np.random.Generator) -> Made:
        return (rng.exponential(size=n) - 1 if skewed else rng.normal(size=n)), None, None

    return make


def grouped(
    groups: int, cases: int, stds: tuple[float, float, float], shared: bool
) -> Callable[[np.random.Generator], Made]:
    """Differences of groups (seeds, draws) of cases; deviations of group, case and rest."""

    def make(rng: np.random.Generator) -> Made:
        of_case = rng.normal(size=(1 if shared else groups, cases))
        table = stds[0] * rng.normal(size=(groups, 1)) + stds[1] * of_case
        table = table + stds[2] * rng.normal(size=(groups, cases))
        labels, names = np.repeat(range(groups), cases).tolist(), list(range(cases)) * groups
        return table.ravel(), labels, names if shared else None

    return make


def settings() -> Iterator[tuple[str, Callable[[np.random.Generator], Made]]]:
    """What is simulated."""
    for n in (4, 6, 12, 40):
        yield f"{n} cases, normal", alone(n, False)
        yield f"{n} cases, exponential", alone(n, True)
    for groups, cases in ((2, 6), (3, 6), (3, 12), (5, 6), (10, 8)):
        for stds in ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (0.3, 1.0, 0.5)):
            name = f"{groups} seeds of {cases} shared cases, deviations {stds}"
            yield name, grouped(groups, cases, stds, True)
    for groups, cases in ((2, 6), (3, 6), (5, 6), (10, 4)):
        for stds in ((0.0, 1.0, 0.0), (0.3, 1.0, 0.0), (1.0, 1.0, 0.0)):
            name = f"{groups} draws of {cases} own cases, deviations {stds[:2]}"
            yield name, grouped(groups, cases, stds, False)


def main() -> None:
    """Print the share of 95 % intervals that hold 0, and of plain percentile intervals."""
    for name, make in settings():
        rng = np.random.default_rng(1)
        held = plain = 0
        for trial in range(TRIALS):
            values, groups, cases = make(rng)
            low, high = bootstrap_interval(
                values, groups=groups, cases=cases, resamples=1000, seed=trial
            )
            held += low <= 0 <= high
            means = rng.choice(values, (1000, len(values))).mean(1)
            low, high = np.quantile(means, [0.025, 0.975])
            plain += low <= 0 <= high
        print(f"{name}: {100 * held / TRIALS:.0f} % (plain {100 * plain / TRIALS:.0f} %)")


if __name__ == "__main__":
    main()
