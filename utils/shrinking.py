"""The rows of Gymnasium's surface, averaged down to the observation as pygame's `smoothscale` does.

`smoothscale` first shrinks every row from 1000 pixels to 96 *cells*, rounding to whole levels, then
the columns likewise. Here a cell is plain (of one colour, its average looked up) until something
covers a part of it; only then does it get pixels of its own. Rows come as the commands of
utils/rasterizer.py; docs/environment.md tells the rules.
"""

import numpy as np

from utils.rasterizer import HEIGHT, OPAQUE, WIDTH, compiled

SIZE = 96  # the observation is SIZE x SIZE
MIXED = 255  # marks a cell with pixels of its own; other marks are places in the palette
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
    """For each pixel (length, 4): the first and last cell that it is part of, then the first cell
    that begins at or after it and the last cell that ends at or before it."""
    pixel = np.arange(length)
    first, last = cells[:, 0], cells[:, 1]
    return np.stack(
        [
            np.searchsorted(last, pixel, "left"),
            np.searchsorted(first, pixel, "right") - 1,
            np.searchsorted(first, pixel, "left"),
            np.searchsorted(last, pixel, "right") - 1,
        ],
        axis=1,
    ).astype(np.int64)


def plain_cells(colors: np.ndarray, cells: np.ndarray, recip: int, bits: int) -> np.ndarray:
    """The averages of rows of one colour: (n, 3) uint8 to (n, 3 * SIZE) uint8."""
    value = colors.astype(np.int64)[:, None, :]
    first, last, head, tail = (column[None, :, None] for column in cells.T)
    total = (value * head >> bits) + value * (last - first - 1) + (value * tail >> bits)
    return (total * recip >> 16).astype(np.uint8).reshape(len(colors), -1)


@compiled
def _open(j, plain, pixels, mixed, count, palette, columns):
    """Give cell j pixels of its own and list it; returns how many cells are listed."""
    if plain[j] == MIXED:
        return count
    color = palette[plain[j]]
    for x in range(columns[j, 0], columns[j, 1] + 1):
        pixels[x] = color
    plain[j] = MIXED
    mixed[count] = j
    return count + 1


@compiled
def _mix(under, over, alpha):
    """SDL_gfx's blend of two 0xRRGGBB colours, each level rounded down."""
    result = 0
    for shift in (0, 8, 16):
        level = (under >> shift) & 255
        result |= (level + ((((over >> shift) & 255) - level) * alpha >> 8)) << shift
    return result


@compiled
def _average(pixels, averages, j, columns, recip, bits):
    """The rounded averages of the three levels of mixed cell j."""
    first, last, head, tail = columns[j, 0], columns[j, 1], columns[j, 2], columns[j, 3]
    red_blue = green = 0
    for x in range(first + 1, last):
        red_blue += pixels[x] & 0xFF00FF
        green += pixels[x] & 0x00FF00
    left, right = pixels[first], pixels[last]
    for channel in range(3):
        shift = 16 - 8 * channel
        total = (green >> 8) if channel == 1 else (red_blue >> shift) & 0xFFFF
        total += (((left >> shift) & 255) * head >> bits) + (((right >> shift) & 255) * tail >> bits)
        averages[3 * j + channel] = (total * recip) >> 16


@compiled
def _row(commands, n, averages, plain, pixels, mixed, palette, plain_averages, columns, ranges):
    """Obey the n commands of one row; returns how many cells are listed as mixed."""
    averages[:] = plain_averages[0]
    plain[:] = 0
    count = 0
    for i in range(n):
        command = commands[i]
        x1, x2 = command & 1023, (command >> 10) & 1023
        color, alpha = (command >> 20) & 255, command >> 28
        low, high = ranges[x1, 0], ranges[x2, 1]  # cells touched
        full, full_end = ranges[x1, 2], ranges[x2, 3] + 1  # cells covered
        if alpha != OPAQUE:
            for j in range(low, high + 1):
                count = _open(j, plain, pixels, mixed, count, palette, columns)
            pixels[x1] = _mix(pixels[x1], palette[color], alpha)
        elif full >= full_end:
            for j in range(low, high + 1):
                count = _open(j, plain, pixels, mixed, count, palette, columns)
            for x in range(x1, x2 + 1):
                pixels[x] = palette[color]
        else:
            for j in range(low, full):
                count = _open(j, plain, pixels, mixed, count, palette, columns)
            for j in range(full_end, high + 1):
                count = _open(j, plain, pixels, mixed, count, palette, columns)
            if low < full:
                for x in range(x1, columns[full - 1, 1] + 1):
                    pixels[x] = palette[color]
            if full_end <= high:
                for x in range(columns[full_end, 0], x2 + 1):
                    pixels[x] = palette[color]
            for k in range(3 * full, 3 * full_end):
                averages[k] = plain_averages[color, k]
            for j in range(full, full_end):
                plain[j] = color
    return count


@compiled
def _paste(text, y, left, plain, pixels, mixed, count, palette, columns, ranges):
    """Copy row y of the text to the pixels from `left`; returns how many cells are listed."""
    right = min(left + text.shape[1], WIDTH)
    for j in range(ranges[left, 0], ranges[right - 1, 1] + 1):
        count = _open(j, plain, pixels, mixed, count, palette, columns)
    for x in range(left, right):
        pixels[x] = text[y, x - left]
    return count


@compiled
def shrink(commands, counts, palette, plain_averages, text, place, filters, buffers, frame):
    """Turn the commands of a whole surface into the uint8 frame (SIZE, 3 * SIZE).

    commands, counts: of utils/rasterizer.py. palette: int64 0xRRGGBB; plain_averages: of
    `plain_averages_of`. text: int64 0xRRGGBB bitmap; place: its left, top in flipped rows.
    """
    columns, ranges, column_recip, rows, row_recip, bits = filters
    averages, plain, pixels, mixed, total = buffers
    total[:] = 0
    cell = SIZE - 1
    for y in range(HEIGHT):
        flipped = HEIGHT - 1 - y
        count = _row(
            commands[y], counts[y], averages, plain, pixels, mixed,
            palette, plain_averages, columns, ranges,
        )  # fmt: skip
        if 0 <= flipped - place[1] < text.shape[0]:
            count = _paste(
                text, flipped - place[1], place[0], plain, pixels, mixed, count,
                palette, columns, ranges,
            )  # fmt: skip
        for i in range(count):
            j = mixed[i]
            if plain[j] == MIXED:
                _average(pixels, averages, j, columns, column_recip, bits)
                plain[j] = 0  # done; it may be listed twice
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
