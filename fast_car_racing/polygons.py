"""Smooth quadrilaterals, as pygame-ce's `gfxdraw.aapolygon` and `filled_polygon` draw them.

Rows, spans and colours are those of spans.py, sides those of lines.py. docs/environment.md has the
rules of pygame.
"""

import numpy as np

from fast_car_racing.compilation import inner
from fast_car_racing.lines import antialiased_line
from fast_car_racing.spans import DASHBOARD, HEIGHT, MAX_CORNERS, WIDTH, add_span, min_max, sort


def make_workspace(n: int) -> tuple[np.ndarray, ...]:
    """Scratch arrays to draw up to n quadrilaterals.

    They are: corners (n, 4, 2) and palette indices (n) of the quadrilaterals; first and last
    filled columns (3, 2, HEIGHT) and rows (3, 2) of three of them in turn; the columns hidden by
    later fills (2, HEIGHT); crossings of one row (MAX_CORNERS); corners of one more polygon.
    """
    return (
        np.empty((n, 4, 2), np.int64),
        np.empty(n, np.int64),
        np.empty((3, 2, HEIGHT), np.int32),
        np.empty((3, 2), np.int64),
        np.empty((2, HEIGHT), np.int32),
        np.empty(MAX_CORNERS, np.int64),
        np.empty((MAX_CORNERS, 2), np.int64),
    )


@inner
def _find_fill(points, left, right):
    """Write the first and last columns of `gfxdraw.filled_polygon` to left and right (HEIGHT).

    points: int64 (4, 2). The rising sides give one end of each row, the falling ones the other.
    Returns the lowest and highest visible row. The lowest is above the highest if the outline has
    no height or turns more than twice; `_fill_any` fills such outlines.
    """
    low, top = min_max(points[:, 1])
    low, high = max(low, DASHBOARD), min(top, HEIGHT - 1)
    if _count_turns(points) != 2:
        return 1, 0
    for i in range(4):
        x1, y1 = points[(i + 3) & 3, 0], points[(i + 3) & 3, 1]
        x2, y2 = points[i, 0], points[i, 1]
        if y1 < y2:
            _find_crossings(x1, y1, x2, y2, top, right)
        elif y1 > y2:
            _find_crossings(x2, y2, x1, y1, top, left)
    left, right = left[low : high + 1], right[low : high + 1]
    for i in range(len(left)):
        # In 1/65536 pixels, moved inwards by one of them and rounded. The ends may swap.
        first, last = min(left[i], right[i]), max(left[i], right[i])
        first, last = (first + 32769) >> 16, (last + 32767) >> 16
        left[i], right[i] = min(first, last), max(first, last)
    return low, high


@inner
def _find_crossings(x1, y1, x2, y2, top, ends):
    """Write where each row crosses a rising side to `ends`, in SDL_gfx's 1/65536 pixels.

    Divides in double precision, which is exact for these sizes and handles many rows at a time.
    """
    begin, end = max(y1, DASHBOARD), min(y2 if y2 == top else y2 - 1, HEIGHT - 1)
    width, start, height = np.int32(x2 - x1), np.int32(65536 * x1), np.float64(y2 - y1)
    ends = ends[begin : max(begin, end + 1)]  # a negative end would count from the array's end
    for i in range(len(ends)):
        part = np.int32(np.float64(65536 * (begin - y1 + i)) / height)
        ends[i] = part * width + start


@inner
def _count_turns(points):
    """How often an outline of four corners, int64 (4, 2), turns from rising to falling or back."""
    turns, before = 0, 0
    for i in range(8):  # twice around, since the first sides may be level
        rise = points[(i + 1) & 3, 1] - points[i & 3, 1]
        turns += i >= 4 and rise * before < 0
        before = (1 if rise > 0 else -1) if rise != 0 else before
    return turns


@inner
def _fill_any(spans, counts, xs, points, color):
    """`gfxdraw.filled_polygon` for any four corners, int64 (4, 2), also of crossing sides."""
    low, high = min_max(points[:, 1])
    for y in range(max(low, DASHBOARD), min(high, HEIGHT - 1) + 1):
        found = 0
        for i in range(4):
            x1, y1, x2, y2 = points[i - 1, 0], points[i - 1, 1], points[i, 0], points[i, 1]
            if y1 > y2:
                x1, y1, x2, y2 = x2, y2, x1, y1
            if y1 <= y < y2 or (y == high and y1 < y == y2):
                xs[found] = 65536 * (y - y1) // (y2 - y1) * (x2 - x1) + 65536 * x1
                found += 1
        sort(xs, found)
        for i in range(0, found, 2):
            add_span(spans, counts, y, (xs[i] + 32769) >> 16, (xs[i + 1] + 32767) >> 16, color)


@inner
def _extend_hidden(hidden, low, high, left, right, rows):
    """Extend the hidden columns of rows low to high by the fill of a later polygon."""
    low, end = max(low, rows[0]), min(high, rows[1]) + 1
    firsts, lasts = hidden[0, low:end], hidden[1, low:end]
    left, right = left[low:end], right[low:end]
    for i in range(len(firsts)):
        first, last = firsts[i], lasts[i]
        touch = (left[i] <= last + 1) & (first <= right[i] + 1)
        firsts[i] = min(first, left[i]) if touch else first
        lasts[i] = max(last, right[i]) if touch else last


@inner
def _find_hidden(hidden, fills, rows, i, n):
    """Write the columns of polygon i that its own fill or one of the next two fills hides."""
    slot = i % 3
    low, high = rows[slot, 0], rows[slot, 1]
    firsts, lasts = hidden[0, low : high + 1], hidden[1, low : high + 1]
    left, right = fills[slot, 0, low : high + 1], fills[slot, 1, low : high + 1]
    for j in range(len(firsts)):
        firsts[j], lasts[j] = left[j], right[j]
    for y in (low - 1, high + 1):  # a side may leave the rows of the fill by one
        if 0 <= y < HEIGHT:
            hidden[0, y], hidden[1, y] = 1, 0
    for k in range(i + 1, min(i + 3, n)):
        _extend_hidden(hidden, low, high, fills[k % 3, 0], fills[k % 3, 1], rows[k % 3])


@inner
def draw_polygons(spans, counts, workspace, n):
    """`gfxdraw.aapolygon`, then `filled_polygon`, for n quadrilaterals of the workspace in turn.

    gfxdraw blends the sides of a polygon first and fills it then. Pixels of the sides that the
    fill or one of the next two fills covers are left out. Tiles of the road share their sides, so
    this is half of them.
    """
    points, colors, fills, rows, hidden, xs, _ = workspace
    for i in range(min(n, 2)):
        rows[i, 0], rows[i, 1] = _find_fill(points[i], fills[i, 0], fills[i, 1])
    for i in range(n):
        if i + 2 < n:
            slot = (i + 2) % 3
            rows[slot, 0], rows[slot, 1] = _find_fill(points[i + 2], fills[slot, 0], fills[slot, 1])
        slot, color = i % 3, colors[i]
        low, high = rows[slot, 0], rows[slot, 1]
        if low > high:
            hidden[0], hidden[1] = 1, 0
        else:
            _find_hidden(hidden, fills, rows, i, n)
        for k in range(4):
            j = (k + 1) & 3
            antialiased_line(
                spans, counts, hidden,
                points[i, k, 0], points[i, k, 1], points[i, j, 0], points[i, j, 1], color,
            )  # fmt: skip
        if low > high:
            _fill_any(spans, counts, xs, points[i], color)
        else:
            _add_fill(spans, counts, fills[slot], low, high, color)


@inner
def _add_fill(spans, counts, fill, low, high, color):
    """Append the filled columns (2, HEIGHT) of rows low to high."""
    for y in range(low, high + 1):
        left, right = max(fill[0, y], 0), min(fill[1, y], WIDTH - 1)
        if left <= right:
            # A span that fills the row replaces all spans before it.
            count = 0 if right - left == WIDTH - 1 else counts[y]
            spans[y, min(count, spans.shape[1] - 1)] = (
                np.int64(left) | np.int64(right) << 10 | color << 20
            )
            counts[y] = count + 1
