"""Variance of the mean of grouped values, and its degrees of freedom."""

import numpy as np


def crossed_size(table: np.ndarray) -> tuple[float, float]:
    """Of a table [groups cases] (nan: none) whose rows and whose columns are random.

    The variance of the mean is that of the row means over the rows plus that of the column means
    over the columns, less the residual's, which both hold (Cornfield and Tukey 1956), and no less
    than any of the three; degrees of freedom after Satterthwaite, Biometrics Bulletin 2 (1946)
    110-114. One row: s^2 / n and n - 1.
    """
    rows, columns = np.nanmean(table, axis=1), np.nanmean(table, axis=0)
    parts = [
        (float(means.var(ddof=1)) / len(means), len(means) - 1)
        for means in (rows, columns)
        if len(means) > 1
    ]
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0, 1.0
    freedom = total**2 / sum(variance**2 / n for variance, n in parts)
    both = 0.0
    if len(parts) == 2 and np.isfinite(table).all():
        rest = table - rows[:, None] - columns + table.mean()
        both = float((rest**2).sum()) / (parts[0][1] * parts[1][1]) / table.size
    return max(total - both, both, *(variance for variance, _ in parts)), freedom


def nested_size(padded: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """Of groups [groups longest] with the given sizes, each with its own cases.

    The variance of the mean is that of the group means over the number of groups; where they lie
    closer together than their cases explain, that of the cases over their number.
    """
    used = np.arange(padded.shape[1]) < sizes[:, None]
    means = padded.sum(1) / sizes
    between = float(means.var(ddof=1)) / len(means)
    inside = int(sizes.sum()) - len(sizes)
    if not inside:
        return between, float(len(means) - 1)
    squares = float((((padded - means[:, None]) * used) ** 2).sum())
    within = squares / inside / int(sizes.sum())
    return (between, len(means) - 1.0) if between > within else (within, float(inside))
