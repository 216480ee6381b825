"""Turns of a patient in the scanner, and the 48 ways to store one image."""

from itertools import permutations, product

import numpy as np

SIGNED = [(o, f) for o in permutations(range(3)) for f in product((1, -1), repeat=3)]


def rotation(degrees):
    """Turns about x, y and z, one after the other: [3 3]."""
    out = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, two = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[one, one] = turn[two, two] = np.cos(angle)
        turn[one, two], turn[two, one] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out


def turned(array, order, flips):
    """The array with its axes permuted, and those of -1 run backwards."""
    return array.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]


def stored(array, affine, order, flips):
    """The same image with its axes permuted and flipped: (array, affine)."""
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        change[old, new] = flip
        change[old, 3] = array.shape[old] - 1 if flip < 0 else 0
    return turned(array, order, flips), affine @ change
