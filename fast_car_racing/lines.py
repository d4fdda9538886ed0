"""The anti-aliased sides of polygons, as pygame-ce's `gfxdraw.aapolygon` (SDL_gfx) draws them.

`hidden` is int32 (2, HEIGHT): the first and last column of each row that a later fill covers.
Opaque and blended pixels inside are left out, since nobody will see them.
"""

import numpy as np

from fast_car_racing.compilation import inner
from fast_car_racing.spans import BLENDED, DASHBOARD, HEIGHT, WIDTH, add_span


@inner
def _add_visible_span(spans, counts, hidden, y, x1, x2, color):
    """`add_span` unless a later fill covers all of it."""
    if y < DASHBOARD or y >= HEIGHT or hidden[0, y] > min(x1, x2) or hidden[1, y] < max(x1, x2):
        add_span(spans, counts, y, x1, x2, color)


@inner
def _steep_line(spans, counts, hidden, x, y, step, dx, dy, color):
    """Between the ends of a line with dy > dx: two blended pixels in each row."""
    slope = (dx << 16) // dy
    for i in range(max(1, DASHBOARD - y), dy):
        weight = (i * slope >> 8) & 255
        near, row = x + step * (i * slope >> 16), y + i
        far, first, last = near + step, np.int64(hidden[0, row]), np.int64(hidden[1, row])
        near_weight, far_weight = 255 - weight, weight
        count = min(counts[row], spans.shape[1] - 2)
        # The count grows by a comparison's result: a branch would often be mispredicted.
        spans[row, count] = near | near << 10 | color << 20 | BLENDED << 26 | near_weight << 36
        count += (near_weight > 0) & ((near < first) | (near > last))
        spans[row, count] = far | far << 10 | color << 20 | BLENDED << 26 | far_weight << 36
        on_surface = (far >= 0) & (far < WIDTH)
        count += (far_weight > 0) & ((far < first) | (far > last)) & on_surface
        counts[row] = count


@inner
def _shallow_line(spans, counts, hidden, x, y, step, dx, dy, color):
    """Between the ends of a line with dx >= dy: two blended pixels in each column.

    Handles together the columns in which the line stays between the same two rows.
    """
    slope = (dy << 16) // dx
    begin = 1
    while begin < dx:
        offset = begin * slope >> 16
        end = min(dx, (((offset + 1) << 16) + slope - 1) // slope) - 1
        low, high = min(x + step * begin, x + step * end), max(x + step * begin, x + step * end)
        for below in range(2):
            row, flip = y + offset + below, 0 if below else 255
            if row < DASHBOARD or row >= HEIGHT:
                continue
            # The visible columns: low to left_end, then right_begin to high.
            first, last = np.int64(hidden[0, row]), np.int64(hidden[1, row])
            left_end, right_begin = min(high, first - 1), max(low, last + 1)
            if first > last:  # nothing is hidden
                left_end, right_begin = high, high + 1
            for part in range(2):
                left, right = (low, left_end) if part == 0 else (right_begin, high)
                if left <= right:
                    phase = (abs(left - x) * slope) & 0xFFFF
                    change = (slope if step > 0 else -slope) & 0xFFFF
                    count = counts[row]
                    spans[row, min(count, spans.shape[1] - 1)] = (
                        left | right << 10 | color << 20 | BLENDED << 26
                        | phase << 28 | change << 44 | (flip & 1) << 60
                    )  # fmt: skip
                    counts[row] = count + 1
        begin = end + 1


@inner
def _outcode(x, y):
    """The sides of the surface that a point lies beyond: left 1, right 2, top 4, bottom 8."""
    code = 0
    if x < 0:
        code = 1
    elif x >= WIDTH:
        code = 2
    if y >= HEIGHT:
        code |= 4
    elif y < 0:
        code |= 8
    return code


@inner
def _clip_line(x1, y1, x2, y2):
    """Cohen-Sutherland clipping with SDL_gfx's single-precision slope and truncation.

    Returns whether anything is left, and the end points, possibly swapped.
    """
    code1, code2 = _outcode(x1, y1), _outcode(x2, y2)
    while code1 | code2:
        if code1 & code2:
            return False, x1, y1, x2, y2
        if code1 == 0:
            x1, y1, code1, x2, y2, code2 = x2, y2, code2, x1, y1, code1
        slope = np.float32(1)
        if x2 != x1:
            slope = np.float32(y2 - y1) / np.float32(x2 - x1)
        if code1 & 3:
            edge = 0 if code1 & 1 else WIDTH - 1
            y1 += int(np.float32(edge - x1) * slope)
            x1 = edge
        else:
            edge = HEIGHT - 1 if code1 & 4 else 0
            if x2 != x1:
                x1 += int(np.float32(edge - y1) / slope)
            y1 = edge
        code1 = _outcode(x1, y1)
    return True, x1, y1, x2, y2


@inner
def antialiased_line(spans, counts, hidden, x1, y1, x2, y2, color):
    """One side of `gfxdraw.aapolygon`: Wu's anti-aliased line without its end point."""
    visible, x1, y1, x2, y2 = _clip_line(x1, y1, x2, y2)
    if not visible:
        return
    x, y, end_x, end_y = x1, y1, x2, y2
    if y > end_y:
        x, y, end_x, end_y = x2, y2, x1, y1
    if x == end_x:
        for row in range(y, end_y + 1):
            _add_visible_span(spans, counts, hidden, row, x, x, color)
        return
    if y == end_y:
        _add_visible_span(spans, counts, hidden, y, x, end_x, color)
        return
    _add_visible_span(spans, counts, hidden, y1, x1, x1, color)
    step = 1 if end_x > x else -1
    dx, dy = abs(end_x - x), end_y - y
    if dy > dx:
        _steep_line(spans, counts, hidden, x, y, step, dx, dy, color)
    else:
        _shallow_line(spans, counts, hidden, x, y, step, dx, dy, color)
