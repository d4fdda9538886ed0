"""The rows of Gymnasium's surface, averaged down to the observation as pygame's `smoothscale` does.

`smoothscale` first shrinks every row from 1000 pixels to 96 *cells*, rounding to whole levels, then
the columns likewise. Here a cell that a span covers gets its average from a table; only the *mixed*
cells, in which a span ends, are averaged from their pixels. Rows come as the commands of
utils/rasterizer.py; docs/environment.md tells the rules.
"""

import numpy as np

from utils.rasterizer import HEIGHT, PIXEL, SPAN, WIDTH, compiled, inlined, inner

SIZE = 96  # the observation is SIZE x SIZE
RED_BLUE = 0xFF000000FF  # where _average keeps its red and its blue
WHOLE = 9  # pixels that belong whole to a cell; some have one more
BITS = {"GENERIC": 16, "SSE2": 14, "NEON": 14}  # fraction bits of smoothscale's backends


def shrinking_axis(length: int, size: int, bits: int) -> tuple[np.ndarray, int]:
    """How `smoothscale` shares `length` pixels among `size` cells, with `bits` of fraction.

    Returns an int64 array (size, 4), for each cell its first and last pixel and their weights (of
    1 << bits; pixels between count whole), and the 16-bit reciprocal of a cell's length.
    """
    unit = 1 << bits
    space = unit * length // size
    cells = np.empty((size, 4), np.int64)
    first, head, pixel = 0, unit, 0
    for cell in range(size):
        left = space if cell == 0 else space - head
        pixel = first if cell == 0 else first + 1
        while left > unit:
            left -= unit
            pixel += 1
        cells[cell] = first, pixel, head, left
        first, head = pixel, unit - left
    return cells, (1 << (bits + 16)) // space


def cell_ranges(cells: np.ndarray, length: int) -> np.ndarray:
    """The first and the last cell that each pixel is part of: (length, 2)."""
    pixel = np.arange(length)
    first = np.searchsorted(cells[:, 1], pixel, "left")
    last = np.searchsorted(cells[:, 0], pixel, "right") - 1
    return np.stack([first, last], axis=1).astype(np.int64)


def plain_cells(colors: np.ndarray, cells: np.ndarray, recip: int, bits: int) -> np.ndarray:
    """The averages of rows of one colour: (n, 3) uint8 to (n, 3 * SIZE) uint8."""
    value = colors.astype(np.int64)[:, None, :]
    first, last, head, tail = (column[None, :, None] for column in cells.T)
    total = (value * head >> bits) + value * (last - first - 1) + (value * tail >> bits)
    return (total * recip >> 16).astype(np.uint8).reshape(len(colors), -1)


def buffers() -> tuple[np.ndarray, ...]:
    """Working memory of `shrink`: averages and pixels of a row; whether a cell is mixed, and which
    are; the columns painted and the colour below them; the sum over rows."""
    return (
        np.empty(3 * SIZE, np.uint8),
        np.empty(WIDTH, np.uint32),
        np.zeros(SIZE, np.uint8),
        np.empty(SIZE + 1, np.int64),
        np.zeros(3, np.int64),
        np.empty(3 * SIZE, np.uint16),
    )


@inner
def _mix(under, over, alpha):
    """SDL_gfx's blend of two 0xRRGGBB colours, each level rounded down."""
    red, green, blue = under >> 16, (under >> 8) & 255, under & 255
    red += (((over >> 16) - red) * alpha) >> 8
    green += ((((over >> 8) & 255) - green) * alpha) >> 8
    blue += (((over & 255) - blue) * alpha) >> 8
    return red << 16 | green << 8 | blue


@inner
def _average(pixels, averages, j, columns, recip, bits):
    """The rounded averages of the three levels of cell j; red and blue share a number."""
    first, last = columns[j, 0] & 1023, columns[j, 1] & 1023
    head, tail = columns[j, 2], columns[j, 3]
    red_blue = green = 0
    for k in range(1, WHOLE + 1):
        value = pixels[first + k]
        red_blue += value & 0xFF00FF
        green += value & 0x00FF00
    # Zero or one more; a branch would be mispredicted every other time.
    value = pixels[last - 1] * (last - first - WHOLE - 1)
    red_blue += value & 0xFF00FF
    green += value & 0x00FF00
    left, right = np.int64(pixels[first]), np.int64(pixels[last])
    total = (red_blue & 0xFFFF) | (red_blue >> 16) << 32
    total += (((left & 255) | (left & 0xFF0000) << 16) * head >> bits) & RED_BLUE
    total += (((right & 255) | (right & 0xFF0000) << 16) * tail >> bits) & RED_BLUE
    total *= recip
    averages[3 * j] = total >> 48
    averages[3 * j + 2] = (total >> 16) & 255
    total = (green >> 8) + (((left >> 8) & 255) * head >> bits)
    averages[3 * j + 1] = (total + (((right >> 8) & 255) * tail >> bits)) * recip >> 16


# A command that covers a row from end to end, whatever its colour
ANY_COLOR = ~(63 << 20)
FULL_ROW = (WIDTH - 1) << 10 | SPAN << 26


@inner
def _same_row(commands, counts, y):
    """Whether row y has the commands of the row before."""
    if y == 0 or counts[y] != counts[y - 1]:
        return False
    for i in range(counts[y]):  # noqa: SIM110, numba has no generator expressions
        if commands[y, i] != commands[y - 1, i]:
            return False
    return True


@inlined
def _paint(pixels, x1, x2, value):
    """Set pixels x1..x2, eight at a time: the last eight may overlap those before."""
    if x2 - x1 < 7:
        for x in range(x1, x2 + 1):
            pixels[x] = value
        return
    x = x1
    while x + 7 < x2:
        for k in range(8):
            pixels[x + k] = value
        x += 8
    x = (x2 - 7) & 1023
    for k in range(8):
        pixels[x + k] = value


@inner
def _row(commands, y, n, state, palette, plain_averages, ranges):
    """Obey the n commands of row y; returns how many cells are listed as mixed."""
    averages, pixels, is_mixed, mixed, painted = state
    start, color = 0, 0
    if n > 0 and commands[y, 0] & ANY_COLOR == FULL_ROW:
        start, color = 1, (commands[y, 0] >> 20) & 63
    value = np.uint32(palette[color])
    if painted[2] != color:
        _paint(pixels, 0, WIDTH - 1, value)
    elif painted[0] <= painted[1]:  # the rest is still plain from the row before
        _paint(pixels, painted[0] & 1023, painted[1] & 1023, value)
    painted[2] = color
    left, right = WIDTH, -1
    for k in range(3 * SIZE):
        averages[k] = plain_averages[color, k]
    count = 0
    for i in range(start, n):
        command = commands[y, i]
        x1, x2 = command & 1023, (command >> 10) & 1023
        color, kind = (command >> 20) & 63, (command >> 26) & 3
        left, right = min(left, x1), max(right, x2)
        value = np.uint32(palette[color])
        # The first and the last cell touched become mixed, without a branch to mispredict.
        low, high = ranges[x1, 0] & 127, ranges[x2, 1] & 127
        mixed[count] = low
        count += 1 - is_mixed[low]
        is_mixed[low] = 1
        mixed[count] = high
        count += 1 - is_mixed[high]
        is_mixed[high] = 1
        if kind == PIXEL:
            alpha = (command >> 28) & 255
            pixels[x1] = _mix(np.int64(pixels[x1]), np.int64(value), alpha)
        elif kind != SPAN:
            phase, change = (command >> 28) & 0xFFFF, (command >> 44) & 0xFFFF
            flip = 255 if command >> 60 else 0
            for x in range(x1, x2 + 1):
                alpha = (255 * (((phase >> 8) & 255) ^ flip)) >> 8
                pixels[x] = _mix(np.int64(pixels[x]), np.int64(value), alpha)
                phase += change
            for j in range(low + 1, high):
                mixed[count] = j
                count += 1 - is_mixed[j]
                is_mixed[j] = 1
        else:
            _paint(pixels, x1, x2, value)
            for k in range(3 * low, 3 * high + 3):
                averages[k] = plain_averages[color, k]
    painted[0], painted[1] = left, right
    return count


@compiled
def average_text(text, left, columns, ranges, column_recip, bits):
    """Averages of a bitmap that begins at pixel `left` of a black surface.

    text: int64 0xRRGGBB (height, width). Returns uint8 (height, 3 * SIZE) and the cells that the
    text touches, first and last.
    """
    result = np.zeros((len(text), 3 * SIZE), np.uint8)
    pixels = np.zeros(WIDTH, np.uint32)
    right = min(left + text.shape[1], WIDTH)
    low, high = ranges[left, 0], ranges[right - 1, 1]
    for y in range(len(text)):
        for x in range(left, right):
            pixels[x] = text[y, x - left]
        for j in range(low, high + 1):
            _average(pixels, result[y], j, columns, column_recip, bits)
    return result, low, high


@compiled
def shrink(commands, counts, palette, plain_averages, score, filters, buffers, frame):
    """Turn the commands of a whole surface into the uint8 frame (SIZE, 3 * SIZE).

    commands, counts: of utils/rasterizer.py. palette: int64 0xRRGGBB; plain_averages: of
    `plain_cells`. score: of `average_text`, with its top in flipped rows; nothing else may touch
    the cells of the text.
    """
    text, low, high, top = score
    columns, ranges, column_recip, rows, row_recip, bits = filters
    averages, pixels, is_mixed, mixed, painted, total = buffers
    state = averages, pixels, is_mixed, mixed, painted
    painted[2] = -1  # the palette may be another
    cell = SIZE - 1
    for y in range(HEIGHT):
        flipped = HEIGHT - 1 - y
        if not _same_row(commands, counts, y):
            count = _row(commands, y, counts[y], state, palette, plain_averages, ranges)
            for i in range(count):
                j = mixed[i] & 127
                _average(pixels, averages, j, columns, column_recip, bits)
                is_mixed[j] = 0
        if top <= flipped < top + len(text):
            for k in range(3 * low, 3 * (high + 1)):
                averages[k] = text[flipped - top, k]
        elif flipped == top - 1:
            for k in range(3 * low, 3 * (high + 1)):
                averages[k] = 0  # the row may be the same, but for the text
        if flipped == HEIGHT - 1:
            for k in range(3 * SIZE):
                total[k] = averages[k] * rows[cell, 3] >> bits
        elif flipped == rows[cell, 0]:
            for k in range(3 * SIZE):
                last = averages[k] * rows[cell, 2] >> bits
                frame[cell, k] = (total[k] + last) * row_recip >> 16
            cell -= 1
            for k in range(3 * SIZE):
                total[k] = averages[k] * rows[cell, 3] >> bits
        else:
            for k in range(3 * SIZE):
                total[k] += averages[k]
