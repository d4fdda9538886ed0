"""The rows of Gymnasium's surface, averaged down to the observation as pygame's `smoothscale` does.

`smoothscale` first shrinks every row from 1000 pixels to 96 *cells*, rounding to whole levels, then
the columns likewise. Here a cell that a span covers gets its average from a table; only the *open*
cells, in which something ends or is blended, are averaged from their pixels. Rows come as the
commands of fast_car_racing/spans.py; docs/environment.md tells the rules.

A colour is three levels packed into one number, 16 bits each, so that one operation does for all.
"""

from functools import lru_cache

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

from fast_car_racing.spans import HEIGHT, SPAN, WIDTH, compiled, inlined, inner

SIZE = 96  # the observation is SIZE x SIZE
LANES, GREY = 0xFF_00FF_00FF, 0x1_0001_0001
OPEN = 64  # in place of a cell's colour; the palette has at most so many
BLENDED = 8192  # colours that one row may blend, named by numbers from OPEN on
WHOLE = 9  # pixels that belong whole to a cell; some have one more
BITS = {"GENERIC": 16, "SSE2": 14, "NEON": 14}  # fraction bits of smoothscale's backends
EDGE = 8  # a row of cells begins here, so that there are some before and after
# The pixels of cell j are FIRST[j] to FIRST[j + 1], both shared with its neighbours. The cells that
# a span from x covers are those after START[x], of a span to x those before STOP[x].
FIRST = (np.maximum(np.arange(SIZE + 1) * WIDTH - 1, 0) // SIZE).astype(np.uint16)
START = (EDGE - 1 + np.searchsorted(FIRST, np.arange(WIDTH), "left")).astype(np.uint8)
STOP = (EDGE - 1 + np.searchsorted(FIRST, np.arange(WIDTH), "right")).astype(np.uint8)
STOP[-1] = EDGE + SIZE
FLAGS = 0x4040_4040_4040_4040  # which of eight cells are open


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


@lru_cache(maxsize=4)
def axes(backend: str) -> tuple:
    """The weights of cells' first and last pixels, columns' and rows', and the rest of the axes.

    backend: of pygame's smoothscale. Raises KeyError if it is not one of `BITS`.
    """
    bits = BITS[backend]
    columns, column_recip = shrinking_axis(WIDTH, SIZE, bits)
    rows, row_recip = shrinking_axis(HEIGHT, SIZE, bits)
    return columns[:, 2:].copy(), column_recip, rows[:, 1:].copy(), row_recip, bits


def pack(levels: np.ndarray) -> np.ndarray:
    """Integer levels (..., 3) as packed colours, int64 (...)."""
    return levels.astype(np.int64) @ np.array([1, 1 << 16, 1 << 32])


@inlined
def _scaled(levels, weight, bits):
    """Each of three packed numbers times weight / 2**bits, rounded down."""
    outer, middle = levels & 0xFFFF_0000_FFFF, levels & 0xFFFF_0000
    return (outer * weight >> bits & 0xFFFF_0000_FFFF) + (middle * weight >> bits & 0xFFFF_0000)


def plain_cells(colors: np.ndarray, weights: np.ndarray, recip: int, bits: int) -> np.ndarray:
    """The averages of cells of one colour: packed colours (n) to packed levels (n, SIZE)."""
    scaled = _scaled.py_func
    value = colors[:, None]
    head, tail = weights.T
    total = scaled(value, head, bits) + scaled(value, tail, bits)
    total += value * (np.diff(FIRST.astype(np.int64)) - 1)
    return scaled(total, recip, 16)


def memory_for(colors: np.ndarray, backend: str) -> tuple:
    """What `shrink` works with, for a palette of packed colours.

    backend: of pygame's smoothscale. Raises KeyError if it is not one of `BITS`.
    """
    weights, recip, _, _, bits = axes(backend)
    palette = np.zeros(OPEN + BLENDED, np.int64)
    palette[: len(colors)] = colors
    cells = np.zeros(EDGE + SIZE + EDGE, np.uint8)
    return (
        palette,
        plain_cells(colors, weights, recip, bits),
        (np.zeros(WIDTH, np.uint8), np.zeros(WIDTH, np.uint16)),  # pixels: places in the palette
        (cells, cells[EDGE : EDGE + SIZE].view(np.int64)),
        (np.empty(SIZE // 8, np.int64), np.empty(SIZE, np.int64), np.empty(SIZE, np.int64)),
        axes(backend),
    )


@inlined
def _mix(under, over, alpha):
    """SDL_gfx's blend of two packed colours, each level rounded down."""
    return (under * (256 - alpha) + over * alpha) >> 8 & LANES


@inner
def _same_row(commands, counts, y):
    """Whether row y has the commands of the row above."""
    if y == HEIGHT - 1 or counts[y] != counts[y + 1]:
        return False
    for i in range(counts[y]):  # noqa: SIM110, numba has no generator expressions
        if commands[y, i] != commands[y + 1, i]:
            return False
    return True


@inner
def _obey(commands, y, n, palette, pixels, cells, limit):
    """Paint row y, and note which cells are of one colour, which open.

    Returns whether its blended colours, named in turn, are fewer than `limit` names allow.
    """
    name = OPEN
    for i in range(n):
        command = commands[y, i]
        x1, x2 = command & 1023, (command >> 10) & 1023
        color, kind = (command >> 20) & 63, (command >> 26) & 3
        low, high = np.int64(START[x1]), np.int64(STOP[x2])
        # What covers a cell in part opens it, unless it is of that colour already.
        cells[low] = color if cells[low] == color else OPEN
        cells[high] = color if cells[high] == color else OPEN
        if kind == SPAN:
            # Loops, since they become memset, without a slice's care for negative ends.
            for cell in range(low + 1, high):
                cells[cell] = color
            for x in range(x1, x2 + 1):
                pixels[x] = color
        else:
            for cell in range(low + 1, high):
                cells[cell] = OPEN
            phase, change = (command >> 28) & 0xFFFF, (command >> 44) & 0xFFFF
            flip, over = 255 if command >> 60 else 0, palette[color]
            for x in range(x1, x2 + 1):
                alpha = (255 * (((phase >> 8) & 255) ^ flip)) >> 8
                palette[name] = _mix(palette[pixels[x]], over, alpha)
                pixels[x] = name
                name = min(name + 1, limit - 1)
                phase += change
    return name < limit - 1


@inlined
def _average(pixels, palette, cell, weights, recip, bits):
    """The rounded averages of an open cell."""
    first, last = FIRST[cell] + 0, FIRST[cell + 1] + 0
    # Zero or one more; a branch would be mispredicted every other time.
    total = palette[pixels[last - 1]] * (last - first - WHOLE - 1)
    for k in range(1, WHOLE + 1):
        total += palette[pixels[first + k]]
    total += _scaled(palette[pixels[first]], weights[cell, 0], bits)
    total += _scaled(palette[pixels[last]], weights[cell, 1], bits)
    return _scaled(total, recip, 16)


@inlined
def _nonzero(word):
    """Of eight bytes below 128, the lowest bits of those that are not zero."""
    word += 0x3F3F_3F3F_3F3F_3F3F  # any bit of a byte carries into its flag or above
    return ((word | word >> 1) & FLAGS) >> 6


@inner
def _update(pixels, cells, words, palette, plain, before, averages, axes):
    """Bring the averages of the row before up to date: where cells are open or have changed."""
    weights, recip, _, _, bits = axes
    for half in range(2):
        opened = changed = 0  # bit 8 * i + w is for cell 8 * w + i of the half
        for w in range(SIZE // 16):
            word = words[SIZE // 16 * half + w]
            opened |= (word & FLAGS) >> 6 << w
            changed |= _nonzero(word ^ before[SIZE // 16 * half + w]) << w
            before[SIZE // 16 * half + w] = word
        changed &= ~opened
        while changed:
            bit = trailing_zeros(changed)
            cell = SIZE // 2 * half + 8 * (bit & 7) + (bit >> 3)
            averages[cell] = plain[cells[EDGE + cell], cell]
            changed &= changed - 1
        while opened:
            bit = trailing_zeros(opened)
            cell = SIZE // 2 * half + 8 * (bit & 7) + (bit >> 3)
            averages[cell] = _average(pixels, palette, cell, weights, recip, bits)
            opened &= opened - 1


@inner
def _finish(averages, total, frame, weight, recip, bits):
    """Write a row of the frame, whose last surface row is `averages`."""
    for k in range(SIZE):
        levels = _scaled(total[k] + _scaled(averages[k], weight, bits), recip, 16)
        total[k] = levels & 0xFF | levels >> 8 & 0xFF00 | levels >> 16 & 0xFF0000
    for k in range(SIZE // 4):  # four pixels fill three words
        a, b, c, d = total[4 * k], total[4 * k + 1], total[4 * k + 2], total[4 * k + 3]
        frame[3 * k] = a | b << 24
        frame[3 * k + 1] = b >> 8 | c << 16
        frame[3 * k + 2] = c >> 16 | d << 8


@compiled
def average_text(text, left, axes, averages):
    """Average a grey bitmap that begins at pixel `left` of a black surface, cell by cell.

    text: uint8 (width, height). axes: of `axes`. averages: packed levels (height, most), written
    to. Returns the cells that the text touches, from and to.
    """
    weights, recip, _, _, bits = axes
    right = min(left + len(text), WIDTH)
    low = max(START[left], EDGE) - EDGE
    high = min(STOP[right - 1], EDGE + SIZE - 1) - EDGE + 1
    for y in range(len(averages)):
        for cell in range(low, high):
            first, last = FIRST[cell] + 0, FIRST[cell + 1] + 0
            total = 0
            for x in range(max(first, left), min(last + 1, right)):
                level = text[x - left, y] * GREY
                if x == first:
                    level = _scaled(level, weights[cell, 0], bits)
                elif x == last:
                    level = _scaled(level, weights[cell, 1], bits)
                total += level
            averages[y, cell - low] = _scaled(total, recip, 16)
    return low, high


@compiled
def shrink(commands, counts, score, memory, frame):
    """Turn the commands of a whole surface into the uint8 frame (SIZE, SIZE, 3).

    commands, counts: of fast_car_racing/spans.py. score: of `average_text`, with its top in flipped
    rows; nothing else may touch its cells. frame: as int32 words (SIZE, SIZE * 3 // 4).
    Returns False where a row blends too many pixels.
    """
    text, low, high, top = score
    palette, plain, (pixels, wide_pixels), (cells, words), (before, averages, total), axes = memory
    _, _, rows, row_recip, bits = axes
    cell = 0
    for k in range(SIZE // 8):
        before[k] = 0x7F7F_7F7F_7F7F_7F7F  # no colour
    for k in range(SIZE):
        total[k] = 0
    for y in range(HEIGHT - 1, -1, -1):
        row = HEIGHT - 1 - y
        if row == top + len(text) or not _same_row(commands, counts, y):
            if _obey(commands, y, counts[y], palette, pixels, cells, 256):
                _update(pixels, cells, words, palette, plain, before, averages, axes)
            elif _obey(commands, y, counts[y], palette, wide_pixels, cells, len(palette)):
                _update(wide_pixels, cells, words, palette, plain, before, averages, axes)
            else:
                return False
        if top <= row < top + len(text):
            for k in range(low, high):
                averages[k] = text[row - top, k - low]
            for k in range(low // 8, (high + 7) // 8):
                before[k] = 0x7F7F_7F7F_7F7F_7F7F
        if row < rows[cell, 0]:
            for k in range(SIZE):
                total[k] += averages[k]
        else:
            _finish(averages, total, frame[cell], rows[cell, 2], row_recip, bits)
            cell = min(cell + 1, SIZE - 1)
            for k in range(SIZE):
                total[k] = _scaled(averages[k], rows[cell, 1], bits)
    return True
