"""Commands: what a row of Gymnasium's CarRacing surface is to be painted with, in turn.

Polygons are not filled here: they leave commands in the rows that they cross. Those of pygame-ce's
`draw.polygon` are in this file, those of its `gfxdraw` in polygons.py. docs/environment.md
gives the rules of both; downscale.py turns the commands into the frame.

`commands` is int64 (HEIGHT, most), of which `counts` (HEIGHT) are in use. A command is, from its
lowest bit: first column (10 bits), last column (10), place of its colour in the palette (6), kind
(2); of a RUN the 16-bit phase of its first pixel, whose upper half is the pixel's weight, what the
phase changes by (16), and whether the weight's bits are flipped (1).

Surface rows are counted as Gymnasium draws them, y upwards, before its vertical flip: the dashboard
is rows 0-99.
"""

from numba import njit

WIDTH, HEIGHT = 1000, 800  # the surface that Gymnasium draws on, in pixels
DASHBOARD = 100  # rows that the dashboard covers
MAX_CORNERS = 8
SPAN, RUN = 0, 1  # kinds of commands: opaque pixels, blended ones

# Unlike Python's, machine arithmetic that needs no check for division by zero. Without memory of
# its own (NRT), since numba would else count references to arrays, even in inner loops.
_OPTIONS = {"error_model": "numpy", "boundscheck": False, "nogil": True, "_nrt": False}


def compiled(function):
    """`numba.njit` with its result kept on disk, or in memory where no folder can be written."""
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        return njit(**_OPTIONS)(function)


# For what only compiled code calls: leaving out the way in from Python halves the compile time.
inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)
# Where a call costs as much as all that it does.
inlined = njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)


@inlined
def span(commands, counts, y, x1, x2, color):
    """Append an opaque run of pixels x1..x2 (either order) to row y."""
    if y < DASHBOARD or y >= HEIGHT:
        return
    low, high = max(min(x1, x2), 0), min(max(x1, x2), WIDTH - 1)
    if low <= high:
        count = min(counts[y], commands.shape[1] - 1)
        commands[y, count] = low | high << 10 | color << 20
        counts[y] = counts[y] + 1


@inner
def extent(values):
    """The least and the greatest of some numbers."""
    low = high = values[0]
    for value in values:
        low, high = min(low, value), max(high, value)
    return low, high


@inner
def sort(values, count):
    """Sort the first `count` values in place."""
    for i in range(1, count):
        value, j = values[i], i - 1
        while j >= 0 and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value


@inner
def plain_polygon(commands, counts, xs, points, color):
    """`pygame.draw.polygon` with width 0: int64 corners (n, 2)."""
    n = len(points)
    low, high = extent(points[:, 1])
    if low == high:
        left, right = extent(points[:, 0])
        span(commands, counts, low, left, right, color)
        return
    for y in range(max(low, DASHBOARD), min(high, HEIGHT - 1) + 1):
        found = 0
        for i in range(n):
            x1, y1, x2, y2 = points[i - 1, 0], points[i - 1, 1], points[i, 0], points[i, 1]
            if y1 == y2:
                if y1 == y and low < y < high:  # a level side is always drawn
                    span(commands, counts, y, x1, x2, color)
                continue
            if y1 > y2:
                x1, y1, x2, y2 = x2, y2, x1, y1
            if y1 <= y < y2 or (y == high and y2 == high):
                shift = (y - y1) * (x2 - x1)
                # rounded down and up in turns, as the sides come
                xs[found] = x1 + (shift // (y2 - y1) if found % 2 == 0 else -(-shift // (y2 - y1)))
                found += 1
        sort(xs, found)
        for i in range(0, found, 2):
            span(commands, counts, y, xs[i], xs[i + 1], color)


@inner
def rectangle(commands, counts, left, right, top, bottom, color):
    """A level `pygame.draw.polygon` with corners in flipped rows; returns its first column."""
    x1, x2 = int(left), int(right)
    y1, y2 = HEIGHT - 1 - int(top), HEIGHT - 1 - int(bottom)
    low, high = max(min(x1, x2), 0), min(max(x1, x2), WIDTH - 1)
    if low <= high:
        for y in range(max(min(y1, y2), 0), min(max(y1, y2), HEIGHT - 1) + 1):
            count = min(counts[y], commands.shape[1] - 1)
            commands[y, count] = low | high << 10 | color << 20
            counts[y] += 1
    return low
