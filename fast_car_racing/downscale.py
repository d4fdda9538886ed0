"""Paints the rows of spans and averages them to the observation, as pygame's `smoothscale` does.

`smoothscale` first shrinks each row from 1000 pixels to 96 cells, rounds to whole levels, and then
shrinks the columns likewise. Here, a cell that a span covers takes its average from a table. Only
the *mixed* cells, in which a span ends or pixels are blended, are averaged from their pixels.

A colour is three levels packed into one integer, 16 bits each, so that one operation serves all.
"""

import math
from functools import lru_cache

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

from fast_car_racing.compilation import compiled, inlined, inner
from fast_car_racing.spans import HEIGHT, OPAQUE, WIDTH

SIZE = 96  # the observation is SIZE x SIZE
LEVELS, GREY = 0xFF_00FF_00FF, 0x1_0001_0001
MIXED = 64  # marks a mixed cell in place of a palette index; a palette has at most 64 colours
MAX_BLENDED = 8192  # blended colours of one row, whose indices follow the palette's
WHOLE_PIXELS = 9  # pixels that belong to one cell alone; some cells have one more
FRACTION_BITS = {"GENERIC": 16, "SSE2": 14, "NEON": 14}  # of smoothscale's backends
CACHE_LINE = 64  # bytes
PADDING = CACHE_LINE  # cells (bytes) before the first and after the last
# Cell j has the pixels FIRST[j] to FIRST[j + 1], and shares both with its neighbours. A span from
# column x covers the cells after START[x]; a span to column x covers those before STOP[x].
FIRST = (np.maximum(np.arange(SIZE + 1) * WIDTH - 1, 0) // SIZE).astype(np.uint16)
START = (PADDING - 1 + np.searchsorted(FIRST, np.arange(WIDTH), "left")).astype(np.uint8)
STOP = (PADDING - 1 + np.searchsorted(FIRST, np.arange(WIDTH), "right")).astype(np.uint8)
STOP[-1] = PADDING + SIZE
FLAGS = 0x4040_4040_4040_4040  # the MIXED bits of eight cells


def axis_weights(length: int, size: int, bits: int) -> tuple[np.ndarray, int]:
    """How `smoothscale` divides `length` pixels into `size` cells, with `bits` of fraction.

    Returns int64 (size, 4), for each cell its first and last pixel and their weights out of
    1 << bits, and the 16-bit reciprocal of a cell's length. The pixels between have full weight.
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
def make_axes(backend: str) -> tuple:
    """Both axes for `downscale`: the columns' weights (SIZE, 2) and reciprocal, the rows' last
    pixel and weights (SIZE, 3) and reciprocal, and the bits of fraction.

    backend: of pygame's smoothscale. Raises KeyError if it is not one of FRACTION_BITS.
    """
    bits = FRACTION_BITS[backend]
    columns, column_reciprocal = axis_weights(WIDTH, SIZE, bits)
    rows, row_reciprocal = axis_weights(HEIGHT, SIZE, bits)
    return columns[:, 2:].copy(), column_reciprocal, rows[:, 1:].copy(), row_reciprocal, bits


def pack_colors(levels: np.ndarray) -> np.ndarray:
    """Integer levels (..., 3) as packed colours, int64 (...)."""
    return levels.astype(np.int64) @ np.array([1, 1 << 16, 1 << 32])


@inlined
def _scale(levels, weight, bits):
    """Multiply each of three packed numbers by weight / 2**bits, rounded down."""
    outer, middle = levels & 0xFFFF_0000_FFFF, levels & 0xFFFF_0000
    return (outer * weight >> bits & 0xFFFF_0000_FFFF) + (middle * weight >> bits & 0xFFFF_0000)


def solid_averages(
    colors: np.ndarray, weights: np.ndarray, reciprocal: int, bits: int
) -> np.ndarray:
    """The averages of cells of one colour: packed colours (n) to packed levels (n, SIZE)."""
    scale = getattr(_scale, "py_func", _scale)
    value = colors[:, None]
    head, tail = weights.T
    total = scale(value, head, bits) + scale(value, tail, bits)
    total += value * (np.diff(FIRST.astype(np.int64)) - 1)
    return scale(total, reciprocal, 16)


def aligned_zeros(shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros from the start of a cache line. Vectors across two lines make `downscale` 5% slower."""
    size = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    begin = -memory.ctypes.data % CACHE_LINE
    return memory[begin : begin + size].view(dtype).reshape(shape)


def make_buffers(palette: np.ndarray, backend: str) -> tuple:
    """Tables and scratch arrays of `downscale` for a palette of packed colours.

    backend: of pygame's smoothscale. Raises KeyError if it is not one of FRACTION_BITS.
    """
    weights, reciprocal, _, _, bits = make_axes(backend)
    colors = aligned_zeros(MIXED + MAX_BLENDED, np.int64)
    colors[: len(palette)] = palette
    cells = aligned_zeros(PADDING + SIZE + PADDING, np.uint8)
    return (
        colors,
        solid_averages(palette, weights, reciprocal, bits),
        (aligned_zeros(WIDTH, np.uint8), aligned_zeros(WIDTH, np.uint16)),  # colour of each pixel
        (cells, cells[PADDING : PADDING + SIZE].view(np.int64)),
        # The cells of the row before, the averages of a row, the weighted sum of rows.
        tuple(aligned_zeros(size, np.int64) for size in (SIZE // 8, SIZE, SIZE)),
        make_axes(backend),
    )


@inlined
def blend(under, over, weight):
    """SDL_gfx's blend of two packed colours by a weight of 8 bits, each level rounded down."""
    alpha = (255 * weight) >> 8
    return (under * (256 - alpha) + over * alpha) >> 8 & LEVELS


@inner
def _same_row(spans, counts, y):
    """Whether row y has the spans of the row above."""
    if y == HEIGHT - 1 or counts[y] != counts[y + 1]:
        return False
    for i in range(counts[y]):  # noqa: SIM110, numba has no generator expressions
        if spans[y, i] != spans[y + 1, i]:
            return False
    return True


@inner
def _paint_row(spans, y, n, colors, pixels, cells, limit):
    """Paint the n spans of row y, and note for each cell its one colour or MIXED.

    A blended pixel gets an index of its own. Returns False if there are too many for `limit`.
    """
    index = MIXED
    for i in range(n):
        span = spans[y, i]  # unpacked here: in a function, this makes the loop four times slower
        x1, x2 = span & 1023, (span >> 10) & 1023
        color, kind = (span >> 20) & 63, (span >> 26) & 3
        low, high = np.int64(START[x1]), np.int64(STOP[x2])
        # A cell that the span covers in part is mixed, unless it has the span's colour.
        cells[low] = color if cells[low] == color else MIXED
        cells[high] = color if cells[high] == color else MIXED
        if kind == OPAQUE:
            # These loops become memset. Slices would first check for negative ends.
            for cell in range(low + 1, high):
                cells[cell] = color
            for x in range(x1, x2 + 1):
                pixels[x] = color
        else:
            for cell in range(low + 1, high):
                cells[cell] = MIXED
            phase, change = (span >> 28) & 0xFFFF, (span >> 44) & 0xFFFF
            flip, over = 255 if span >> 60 else 0, colors[color]
            for x in range(x1, x2 + 1):
                colors[index] = blend(colors[pixels[x]], over, ((phase >> 8) & 255) ^ flip)
                pixels[x] = index
                index = min(index + 1, limit - 1)
                phase += change
    return index < limit - 1


@inlined
def _average_cell(pixels, colors, cell, weights, reciprocal, bits):
    """The rounded averages of a mixed cell."""
    first, last = FIRST[cell] + 0, FIRST[cell + 1] + 0
    # The factor is zero or one: a branch would be mispredicted every other time.
    total = colors[pixels[last - 1]] * (last - first - WHOLE_PIXELS - 1)
    for k in range(1, WHOLE_PIXELS + 1):
        total += colors[pixels[first + k]]
    total += _scale(colors[pixels[first]], weights[cell, 0], bits)
    total += _scale(colors[pixels[last]], weights[cell, 1], bits)
    return _scale(total, reciprocal, 16)


@inlined
def _nonzero_bytes(word):
    """The lowest bit of each of eight bytes, all below 128, that is not zero."""
    word += 0x3F3F_3F3F_3F3F_3F3F  # any bit of a byte carries into its flag or above
    return ((word | word >> 1) & FLAGS) >> 6


@inner
def _update_averages(pixels, cells, words, colors, solid, before, averages, axes):
    """Update the averages of the row before: in cells that are mixed or have changed."""
    weights, reciprocal, _, _, bits = axes
    for half in range(2):
        mixed = changed = 0  # bit 8 * i + w is for cell 8 * w + i of the half
        for w in range(SIZE // 16):
            word = words[SIZE // 16 * half + w]
            mixed |= (word & FLAGS) >> 6 << w
            changed |= _nonzero_bytes(word ^ before[SIZE // 16 * half + w]) << w
            before[SIZE // 16 * half + w] = word
        changed &= ~mixed
        while changed:
            bit = trailing_zeros(changed)
            cell = SIZE // 2 * half + 8 * (bit & 7) + (bit >> 3)
            averages[cell] = solid[cells[PADDING + cell], cell]
            changed &= changed - 1
        while mixed:
            bit = trailing_zeros(mixed)
            cell = SIZE // 2 * half + 8 * (bit & 7) + (bit >> 3)
            averages[cell] = _average_cell(pixels, colors, cell, weights, reciprocal, bits)
            mixed &= mixed - 1


@inner
def _write_row(averages, total, frame, weight, reciprocal, bits):
    """Write a row of the frame. `averages` is the last surface row that it includes."""
    for k in range(SIZE):
        levels = _scale(total[k] + _scale(averages[k], weight, bits), reciprocal, 16)
        total[k] = levels & 0xFF | levels >> 8 & 0xFF00 | levels >> 16 & 0xFF0000
    for k in range(SIZE // 4):  # four pixels fill three words
        a, b, c, d = total[4 * k], total[4 * k + 1], total[4 * k + 2], total[4 * k + 3]
        frame[3 * k] = a | b << 24
        frame[3 * k + 1] = b >> 8 | c << 16
        frame[3 * k + 2] = c >> 16 | d << 8


@compiled
def average_text(text, left, axes, averages):
    """Average each row of a grey bitmap, at pixel `left` of a black surface, cell by cell.

    text: uint8 (width, height). axes: of `make_axes`. averages: packed levels (height, capacity),
    written to. Returns the range of cells that the text touches.
    """
    weights, reciprocal, _, _, bits = axes
    right = min(left + len(text), WIDTH)
    low = max(START[left], PADDING) - PADDING
    high = min(STOP[right - 1], PADDING + SIZE - 1) - PADDING + 1
    for y in range(len(averages)):
        for cell in range(low, high):
            first, last = FIRST[cell] + 0, FIRST[cell + 1] + 0
            total = 0
            for x in range(max(first, left), min(last + 1, right)):
                level = text[x - left, y] * GREY
                if x == first:
                    level = _scale(level, weights[cell, 0], bits)
                elif x == last:
                    level = _scale(level, weights[cell, 1], bits)
                total += level
            averages[y, cell - low] = _scale(total, reciprocal, 16)
    return low, high


@compiled
def downscale(spans, counts, score, buffers, frame):
    """Average the spans of a whole surface to the observation, uint8 (SIZE, SIZE, 3).

    score: averages and range of `average_text`, and its first row from the top; no span may touch
    its cells. buffers: of `make_buffers`. frame: written to as int32 words (SIZE, SIZE * 3 // 4).
    Returns False where a row blends more than MAX_BLENDED pixels.
    """
    text, low, high, top = score
    colors, solid, (pixels, wide_pixels), (cells, words), (before, averages, total), axes = buffers
    _, _, rows, row_reciprocal, bits = axes
    cell = 0
    for k in range(SIZE // 8):
        before[k] = 0x7F7F_7F7F_7F7F_7F7F  # no colour
    for k in range(SIZE):
        total[k] = 0
    for y in range(HEIGHT - 1, -1, -1):
        row = HEIGHT - 1 - y
        if row == top + len(text) or not _same_row(spans, counts, y):
            if _paint_row(spans, y, counts[y], colors, pixels, cells, 256):
                _update_averages(pixels, cells, words, colors, solid, before, averages, axes)
            elif _paint_row(spans, y, counts[y], colors, wide_pixels, cells, len(colors)):
                _update_averages(wide_pixels, cells, words, colors, solid, before, averages, axes)
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
            _write_row(averages, total, frame[cell], rows[cell, 2], row_reciprocal, bits)
            cell = min(cell + 1, SIZE - 1)
            for k in range(SIZE):
                total[k] = _scale(averages[k], rows[cell, 1], bits)
    return True
