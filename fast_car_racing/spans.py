"""Spans: the runs of pixels that each row of Gymnasium's 1000 × 800 surface is painted with.

Polygons are not filled on a surface. They append spans to the rows that they cross, and
downscale.py or painting.py paints the rows. The polygons in this file follow pygame-ce's
`draw.polygon`, those in polygons.py its `gfxdraw`.

`spans` is int64 (HEIGHT, capacity), of which the first `counts` (HEIGHT) of each row are in use.
The bits of a span, from the lowest: first column (10), last column (10), index of its colour in the
palette (6), kind (2). A BLENDED span also has the 16-bit phase of its first pixel, the upper half
of which is the pixel's weight; the change of the phase per pixel (16); and whether the weight's
bits are flipped (1).

Rows are numbered as Gymnasium draws them, y upwards, before it flips the surface: the dashboard
is rows 0 to 99.
"""

from fast_car_racing.compilation import inlined, inner

WIDTH, HEIGHT = 1000, 800  # the surface that Gymnasium draws on, in pixels
DASHBOARD = 100  # height of the dashboard in pixels
MAX_CORNERS = 8
OPAQUE, BLENDED = 0, 1  # kinds of spans


@inlined
def add_span(spans, counts, y, x1, x2, color):
    """Append the opaque pixels x1 to x2 (in either order) to row y."""
    if y < DASHBOARD or y >= HEIGHT:
        return
    left, right = max(min(x1, x2), 0), min(max(x1, x2), WIDTH - 1)
    if left <= right:
        count = min(counts[y], spans.shape[1] - 1)
        spans[y, count] = left | right << 10 | color << 20
        counts[y] = counts[y] + 1


@inner
def min_max(values):
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
def fill_polygon(spans, counts, xs, points, color):
    """`pygame.draw.polygon` with width 0.

    points: int64 corners (n, 2). xs: int64 (MAX_CORNERS), scratch.
    """
    n = len(points)
    low, high = min_max(points[:, 1])
    if low == high:
        left, right = min_max(points[:, 0])
        add_span(spans, counts, low, left, right, color)
        return
    for y in range(max(low, DASHBOARD), min(high, HEIGHT - 1) + 1):
        found = 0
        for i in range(n):
            x1, y1, x2, y2 = points[i - 1, 0], points[i - 1, 1], points[i, 0], points[i, 1]
            if y1 == y2:
                if y1 == y and low < y < high:  # pygame always draws these level sides
                    add_span(spans, counts, y, x1, x2, color)
                continue
            if y1 > y2:
                x1, y1, x2, y2 = x2, y2, x1, y1
            if y1 <= y < y2 or (y == high and y2 == high):
                shift = (y - y1) * (x2 - x1)
                # pygame rounds down and up in turns, in the order of the sides.
                xs[found] = x1 + (shift // (y2 - y1) if found % 2 == 0 else -(-shift // (y2 - y1)))
                found += 1
        sort(xs, found)
        for i in range(0, found, 2):
            add_span(spans, counts, y, xs[i], xs[i + 1], color)


@inner
def fill_rectangle(spans, counts, left, right, top, bottom, color):
    """An upright `pygame.draw.polygon` with four corners, in flipped rows.

    Returns its first column.
    """
    x1, x2 = int(left), int(right)
    y1, y2 = HEIGHT - 1 - int(top), HEIGHT - 1 - int(bottom)
    first, last = max(min(x1, x2), 0), min(max(x1, x2), WIDTH - 1)
    if first <= last:
        for y in range(max(min(y1, y2), 0), min(max(y1, y2), HEIGHT - 1) + 1):
            count = min(counts[y], spans.shape[1] - 1)
            spans[y, count] = first | last << 10 | color << 20
            counts[y] += 1
    return first
