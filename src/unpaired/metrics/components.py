"""The largest connected component, of every class in one pass.

A label map is a few long runs of equal values along its last axis. The runs are found by one
comparison of neighbours, joined where they touch in neighbouring rows, and the graph of runs is a
hundred times smaller than the volume: no image of component numbers is ever built, and specks all
over the volume cost no more than clean organs.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Runs:
    """Runs of equal foreground labels along the last axis, in scan order.

    Attributes:
        row: flat index over all axes but the last.
        start: first position along the last axis.
        stop: one past the last position.
        value: the label.
    """

    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    value: np.ndarray


def largest_component(
    mask: Bool[np.ndarray, "*space"], full: bool = False
) -> Bool[np.ndarray, "*space"]:
    """The largest connected component of a mask; see `keep_largest`."""
    return keep_largest(mask.view(np.uint8), {1}, full).view(bool)


def keep_largest(
    labels: Integer[np.ndarray, "*space"], classes: Collection[int], full: bool = False
) -> Integer[np.ndarray, "*space"]:
    """Keep the largest connected component of each given class, set the rest of it to 0.

    Args:
        labels: class indices, 0 is background; any number of axes.
        classes: the classes to clean; others are left as they are.
        full: voxels that touch by an edge or a corner are connected too (26 neighbours in a
            volume); by default only those that share a face (6).

    Returns:
        a new array. Of components of equal size the one that comes first in the array stays.
    """
    result = labels.copy(order="C")
    if not result.size:
        return result
    runs = find_runs(result.reshape(-1, result.shape[-1]), [c for c in classes if c != 0])
    if not runs.row.size:
        return result
    component = _components(runs, result.shape[:-1], result.shape[-1], full)
    size = np.bincount(component, weights=runs.stop - runs.start)
    keep = np.zeros(len(size), dtype=bool)
    for value in np.unique(runs.value):
        # Components are numbered by their first run, so argmax takes the first of equals.
        own = np.unique(component[runs.value == value])
        keep[own[np.argmax(size[own])]] = True
    drop = ~keep[component]
    _clear(result, runs, drop)
    return result


def component_sizes(
    labels: Integer[np.ndarray, "*space"], classes: Collection[int]
) -> dict[int, np.ndarray]:
    """The sizes in voxels of each class's components, largest first; voxels that touch by an edge
    or a corner are connected."""
    runs = find_runs(labels.reshape(-1, labels.shape[-1]), classes)
    if not runs.row.size:
        return {z: np.empty(0, np.int64) for z in classes}
    component = _components(runs, labels.shape[:-1], labels.shape[-1], full=True)
    size = np.bincount(component, weights=runs.stop - runs.start).astype(np.int64)
    value = np.zeros(len(size), np.int64)
    value[component] = runs.value  # all runs of a component are of one class
    return {z: np.sort(size[value == z])[::-1] for z in classes}


def _clear(result: np.ndarray, runs: Runs, drop: np.ndarray) -> None:
    """Set the voxels of some runs to 0."""
    length = (runs.stop - runs.start)[drop]
    first = runs.row[drop] * result.shape[-1] + runs.start[drop]
    result.reshape(-1)[_ranges(first, length)] = 0


def find_runs(rows: Integer[np.ndarray, "rows width"], values: Collection[int]) -> Runs:
    """Runs of the given values in each row."""
    found = []
    # A block of rows at a time keeps the comparison small whatever the size of the volume.
    step = max(1, (1 << 22) // max(1, rows.shape[1]))
    for top in range(0, len(rows), step):
        block = rows[top : top + step]
        change = np.ones((len(block), block.shape[1] + 1), dtype=bool)
        np.not_equal(block[:, 1:], block[:, :-1], out=change[:, 1:-1])
        row, position = np.divmod(np.flatnonzero(change), change.shape[1])
        # Between two neighbouring changes of one row lies one run.
        same = row[1:] == row[:-1]
        row, start, stop = row[:-1][same], position[:-1][same], position[1:][same]
        value = block[row, start].astype(np.int64)
        wanted = np.isin(value, list(values))
        found.append([x[wanted] for x in (row + top, start, stop, value)])
    return Runs(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _components(runs: Runs, outer: tuple[int, ...], width: int, full: bool) -> np.ndarray:
    """Component number of each run, numbered in scan order of their first run."""
    sides = [np.empty((2, 0), dtype=np.int64)]
    sides += [_touching(runs, offset, outer, width, full) for offset in _neighbours(outer, full)]
    a, b = np.concatenate(sides, axis=1)
    graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(len(runs.row),) * 2)
    number = connected_components(graph, directed=False)[1]
    first = np.unique(number, return_index=True)[1]
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number]


def _neighbours(outer: tuple[int, ...], full: bool) -> Iterator[tuple[int, ...]]:
    """Offsets to half of the neighbouring rows; the other half are the same pairs."""
    for offset in product((-1, 0, 1), repeat=len(outer)):
        if offset > (0,) * len(outer) and (full or sum(map(abs, offset)) == 1):
            yield offset


def _touching(
    runs: Runs, offset: tuple[int, ...], outer: tuple[int, ...], width: int, full: bool
) -> np.ndarray:
    """Pairs of runs [2 n] of one value that touch, the second in the row at `offset`."""
    place = np.stack(np.unravel_index(runs.row, outer)) + np.asarray(offset)[:, None]
    valid = np.all((place >= 0) & (place < np.asarray(outer)[:, None]), axis=0)
    here = np.flatnonzero(valid)
    row = np.ravel_multi_index(tuple(place[:, valid]), outer)
    # Runs are sorted and disjoint, so the partners of each are a range of neighbours.
    pitch, reach = width + 2, int(full)
    low = np.searchsorted(
        runs.row * pitch + runs.stop, row * pitch + runs.start[here] - reach, side="right"
    )
    high = np.searchsorted(
        runs.row * pitch + runs.start, row * pitch + runs.stop[here] + reach, side="left"
    )
    count = np.maximum(high - low, 0)
    pairs = np.stack([np.repeat(here, count), _ranges(low, count)])
    return pairs[:, runs.value[pairs[0]] == runs.value[pairs[1]]]


def _ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The ranges first[i] .. first[i] + count[i] one after the other."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(first - (ends - count), count)
