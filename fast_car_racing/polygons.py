"""The pixels of smooth polygons as pygame-ce's `gfxdraw` (SDL_gfx) has them, as commands of rows.

spans.py tells what commands are, docs/environment.md by which rules pixels are chosen.
"""

import numpy as np

from fast_car_racing.spans import (
    DASHBOARD,
    HEIGHT,
    MAX_CORNERS,
    RUN,
    WIDTH,
    extent,
    inner,
    sort,
    span,
)


@inner
def _bare_span(commands, counts, inside, y, x1, x2, color):
    """As span, unless what is painted later covers it all."""
    if y < DASHBOARD or y >= HEIGHT or inside[0, y] > min(x1, x2) or inside[1, y] < max(x1, x2):
        span(commands, counts, y, x1, x2, color)


@inner
def _steep(commands, counts, inside, x, y, step, dx, dy, color):
    """Between the ends of an edge with dy > dx: two blended pixels in each row."""
    slope = (dx << 16) // dy
    for i in range(max(1, DASHBOARD - y), dy):
        weight = (i * slope >> 8) & 255
        near, row = x + step * (i * slope >> 16), y + i
        far, first, last = near + step, np.int64(inside[0, row]), np.int64(inside[1, row])
        near_alpha, far_alpha = 255 - weight, weight
        count = min(counts[row], commands.shape[1] - 2)
        # Counted or not without a branch, which would often be mispredicted.
        commands[row, count] = (
            near | near << 10 | color << 20 | RUN << 26 | near_alpha << 36
        )  # fmt: skip
        count += (near_alpha > 0) & ((near < first) | (near > last))
        commands[row, count] = far | far << 10 | color << 20 | RUN << 26 | far_alpha << 36
        seen = (far >= 0) & (far < WIDTH)
        count += (far_alpha > 0) & ((far < first) | (far > last)) & seen
        counts[row] = count


@inner
def _flat(commands, counts, inside, x, y, step, dx, dy, color):
    """Between the ends of an edge with dx >= dy: in each column two blended pixels.

    Goes by the runs of columns in which the line stays between the same two rows.
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
            # what lies left of the polygon's fill, then what lies right of it
            first, last = np.int64(inside[0, row]), np.int64(inside[1, row])
            pause, resume = min(high, first - 1), max(low, last + 1)
            if first > last:
                pause, resume = high, high + 1
            for part in range(2):
                left, right = (low, pause) if part == 0 else (resume, high)
                if left <= right:
                    phase = (abs(left - x) * slope) & 0xFFFF
                    change = (slope if step > 0 else -slope) & 0xFFFF
                    count = counts[row]
                    commands[row, min(count, commands.shape[1] - 1)] = (
                        left | right << 10 | color << 20 | RUN << 26
                        | phase << 28 | change << 44 | (flip & 1) << 60
                    )  # fmt: skip
                    counts[row] = count + 1
        begin = end + 1


@inner
def _outside(x, y):
    """On which sides of the surface a point lies: left 1, right 2, above 4, below 8."""
    side = 0
    if x < 0:
        side = 1
    elif x >= WIDTH:
        side = 2
    if y >= HEIGHT:
        side |= 4
    elif y < 0:
        side |= 8
    return side


@inner
def _clip(x1, y1, x2, y2):
    """Cohen-Sutherland clipping with SDL_gfx's single-precision slope and truncation.

    Returns whether anything is left, and the end points, possibly swapped.
    """
    side1, side2 = _outside(x1, y1), _outside(x2, y2)
    while side1 | side2:
        if side1 & side2:
            return False, x1, y1, x2, y2
        if side1 == 0:
            x1, y1, side1, x2, y2, side2 = x2, y2, side2, x1, y1, side1
        slope = np.float32(1)
        if x2 != x1:
            slope = np.float32(y2 - y1) / np.float32(x2 - x1)
        if side1 & 3:
            edge = 0 if side1 & 1 else WIDTH - 1
            y1 += int(np.float32(edge - x1) * slope)
            x1 = edge
        else:
            edge = HEIGHT - 1 if side1 & 4 else 0
            if x2 != x1:
                x1 += int(np.float32(edge - y1) / slope)
            y1 = edge
        side1 = _outside(x1, y1)
    return True, x1, y1, x2, y2


@inner
def _smooth_edge(commands, counts, inside, x1, y1, x2, y2, color):
    """One side of `gfxdraw.aapolygon`: Wu's anti-aliased line without its end point."""
    visible, x1, y1, x2, y2 = _clip(x1, y1, x2, y2)
    if not visible:
        return
    x, y, end_x, end_y = x1, y1, x2, y2
    if y > end_y:
        x, y, end_x, end_y = x2, y2, x1, y1
    if x == end_x:
        for row in range(y, end_y + 1):
            _bare_span(commands, counts, inside, row, x, x, color)
        return
    if y == end_y:
        _bare_span(commands, counts, inside, y, x, end_x, color)
        return
    _bare_span(commands, counts, inside, y1, x1, x1, color)
    step = 1 if end_x > x else -1
    dx, dy = abs(end_x - x), end_y - y
    if dy > dx:
        _steep(commands, counts, inside, x, y, step, dx, dy, color)
    else:
        _flat(commands, counts, inside, x, y, step, dx, dy, color)


@inner
def _fill(points, left, right):
    """The spans of `gfxdraw.filled_polygon`, first and last pixel, into left and right (HEIGHT).

    points: int64 (4, 2). The sides that go up give one end of each row, those that go down the
    other. Returns the visible rows, low and high; none for an outline of no height or one that
    turns more than twice, which _zigzag fills.
    """
    low, top = extent(points[:, 1])
    low, high = max(low, DASHBOARD), min(top, HEIGHT - 1)
    if _turns(points) != 2:
        return 1, 0
    for i in range(4):
        x1, y1 = points[(i + 3) & 3, 0], points[(i + 3) & 3, 1]
        x2, y2 = points[i, 0], points[i, 1]
        if y1 < y2:
            _crossings(x1, y1, x2, y2, top, right)
        elif y1 > y2:
            _crossings(x2, y2, x1, y1, top, left)
    left, right = left[low : high + 1], right[low : high + 1]
    for i in range(len(left)):
        # 1/65536 pixels, rounded inwards by one of them; the ends may pass each other
        first, last = min(left[i], right[i]), max(left[i], right[i])
        first, last = (first + 32769) >> 16, (last + 32767) >> 16
        left[i], right[i] = min(first, last), max(first, last)
    return low, high


@inner
def _crossings(x1, y1, x2, y2, top, ends):
    """Where each row meets a side that goes up, in 1/65536 pixels: SDL_gfx's fixed-point numbers.

    Divides in double precision, exact for these sizes, since that can go many rows at a time.
    """
    begin, end = max(y1, DASHBOARD), min(y2 if y2 == top else y2 - 1, HEIGHT - 1)
    width, start, height = np.int32(x2 - x1), np.int32(65536 * x1), np.float64(y2 - y1)
    ends = ends[begin : max(begin, end + 1)]  # an end below 0 would count from behind
    for i in range(len(ends)):
        part = np.int32(np.float64(65536 * (begin - y1 + i)) / height)
        ends[i] = part * width + start


@inner
def _turns(points):
    """How often the outline of int64 (4, 2) corners turns from up to down or back."""
    turns, before = 0, 0
    for i in range(8):  # twice around, since the first sides may be level
        rise = points[(i + 1) & 3, 1] - points[i & 3, 1]
        turns += i >= 4 and rise * before < 0
        before = (1 if rise > 0 else -1) if rise != 0 else before
    return turns


@inner
def _zigzag(commands, counts, xs, points, color):
    """`gfxdraw.filled_polygon` for four int64 corners (4, 2) of any kind."""
    low, high = extent(points[:, 1])
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
            span(commands, counts, y, (xs[i] + 32769) >> 16, (xs[i + 1] + 32767) >> 16, color)


@inner
def _cover(inside, low, high, left, right, rows):
    """Extend the spans `inside` of rows low..high by those of a polygon that comes later."""
    low, end = max(low, rows[0]), min(high, rows[1]) + 1
    firsts, lasts, left, right = (
        inside[0, low:end],
        inside[1, low:end],
        left[low:end],
        right[low:end],
    )
    for i in range(len(firsts)):
        first, last = firsts[i], lasts[i]
        touch = (left[i] <= last + 1) & (first <= right[i] + 1)
        firsts[i] = min(first, left[i]) if touch else first
        lasts[i] = max(last, right[i]) if touch else last


@inner
def smooth_polygons(commands, counts, scratch, n):
    """`gfxdraw.aapolygon` and `filled_polygon` for n quadrilaterals in turn.

    A polygon's edges are blended in before it is filled, so what its own fill or one of the next
    two covers is left out: tiles of the road meet without a gap.
    """
    points, colors, spans, rows, inside, xs, _ = scratch
    for i in range(min(n, 2)):
        rows[i, 0], rows[i, 1] = _fill(points[i], spans[i, 0], spans[i, 1])
    for i in range(n):
        if i + 2 < n:
            slot = (i + 2) % 3
            rows[slot, 0], rows[slot, 1] = _fill(points[i + 2], spans[slot, 0], spans[slot, 1])
        slot, color = i % 3, colors[i]
        low, high = rows[slot, 0], rows[slot, 1]
        zigzag = low > high
        if zigzag:
            inside[0], inside[1] = 1, 0
        else:
            firsts, lasts = inside[0, low : high + 1], inside[1, low : high + 1]
            left, right = spans[slot, 0, low : high + 1], spans[slot, 1, low : high + 1]
            for j in range(len(firsts)):
                firsts[j], lasts[j] = left[j], right[j]
            for y in (low - 1, high + 1):  # a line may leave the rows of the fill by one
                if 0 <= y < HEIGHT:
                    inside[0, y], inside[1, y] = 1, 0
            for k in range(i + 1, min(i + 3, n)):
                _cover(inside, low, high, spans[k % 3, 0], spans[k % 3, 1], rows[k % 3])
        for k in range(4):
            j = (k + 1) & 3
            _smooth_edge(
                commands, counts, inside,
                points[i, k, 0], points[i, k, 1], points[i, j, 0], points[i, j, 1], color,
            )  # fmt: skip
        if zigzag:
            _zigzag(commands, counts, xs, points[i], color)
        else:
            _emit(commands, counts, spans[slot], low, high, color)


@inner
def _emit(commands, counts, spans, low, high, color):
    """Append the spans of one polygon."""
    for y in range(low, high + 1):
        left, right = max(spans[0, y], 0), min(spans[1, y], WIDTH - 1)
        if left <= right:
            command = np.int64(left) | np.int64(right) << 10 | color << 20
            # what fills the row hides all that came before
            count = 0 if right - left == WIDTH - 1 else counts[y]
            commands[y, min(count, commands.shape[1] - 1)] = command
            counts[y] = count + 1


def scratch_for(n: int) -> tuple[np.ndarray, ...]:
    """Working memory to draw up to n polygons: their corners and colours; of three of them the
    spans and rows that they fill; the spans that need no blending; where the sides of a polygon
    meet a row; and the corners of one more polygon."""
    return (
        np.empty((n, 4, 2), np.int64),
        np.empty(n, np.int64),
        np.empty((3, 2, HEIGHT), np.int32),
        np.empty((3, 2), np.int64),
        np.empty((2, HEIGHT), np.int32),
        np.empty(MAX_CORNERS, np.int64),
        np.empty((MAX_CORNERS, 2), np.int64),
    )
