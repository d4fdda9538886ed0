"""The rows of Gymnasium's surface, averaged down to the observation as pygame's `smoothscale` does.

`smoothscale` first shrinks every row from 1000 pixels to 96 *cells*, rounding to whole levels, then
the columns likewise. Here a cell is plain (of one colour, its average looked up) until something
covers a part of it; only then does it get pixels of its own. Rows come as the commands of
utils/rasterizer.py; docs/environment.md tells the rules.
"""

import numpy as np

from utils.rasterizer import HEIGHT, OPAQUE, WIDTH, compiled

SIZE = 96  # the observation is SIZE x SIZE
LANES = 16  # places for pixels in a cell, of which it uses 12 at most
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


def whole_pixels(cells: np.ndarray) -> np.ndarray:
    """Masks (size, LANES), all bits set where a place of a cell is neither its first nor last."""
    place = np.arange(LANES)
    inner = (place > 0) & (place < (cells[:, 1] - cells[:, 0])[:, None])
    return np.where(inner, 0xFFFFFFFF, 0).astype(np.uint32)


def plain_cells(colors: np.ndarray, cells: np.ndarray, recip: int, bits: int) -> np.ndarray:
    """The averages of rows of one colour: (n, 3) uint8 to (n, 3 * SIZE) uint8."""
    value = colors.astype(np.int64)[:, None, :]
    first, last, head, tail = (column[None, :, None] for column in cells.T)
    total = (value * head >> bits) + value * (last - first - 1) + (value * tail >> bits)
    return (total * recip >> 16).astype(np.uint8).reshape(len(colors), -1)


@compiled
def _mix(under, over, alpha):
    """SDL_gfx's blend of two 0xRRGGBB colours, each level rounded down."""
    red, green, blue = under >> 16, (under >> 8) & 255, under & 255
    red += (((over >> 16) - red) * alpha) >> 8
    green += ((((over >> 8) & 255) - green) * alpha) >> 8
    blue += (((over & 255) - blue) * alpha) >> 8
    return red << 16 | green << 8 | blue


@compiled
def _average(pixels, averages, j, columns, whole, recip, bits):
    """The rounded averages of the three levels of mixed cell j."""
    last = (columns[j, 1] - columns[j, 0]) & 15
    red_blue = green = 0
    for k in range(1, last):
        value = pixels[j, k]
        red_blue += value & 0xFF00FF
        green += value & 0x00FF00
    head, tail = columns[j, 2], columns[j, 3]
    left, right = np.int64(pixels[j, 0]), np.int64(pixels[j, last])
    for channel in range(3):
        shift = 16 - 8 * channel
        total = green >> 8 if channel == 1 else (red_blue >> shift) & 0xFFFF
        total += (((left >> shift) & 255) * head >> bits) + (((right >> shift) & 255) * tail >> bits)
        averages[3 * j + channel] = (total * recip) >> 16


@compiled
def _row(commands, n, state, palette, plain_averages, columns, ranges):
    """Obey the n commands of one row; returns how many cells are listed as mixed."""
    averages, plain, pixels, mixed = state
    for k in range(3 * SIZE):
        averages[k] = plain_averages[0, k]
    for j in range(SIZE):
        plain[j] = 0
    count = 0
    for i in range(n):
        command = commands[i]
        x1, x2 = command & 1023, (command >> 10) & 1023
        color, alpha = (command >> 20) & 63, (command >> 28) & 255
        low, high = ranges[x1, 0] & 127, ranges[x2, 1] & 127  # cells touched
        full, full_end = ranges[x1, 2] & 127, (ranges[x2, 3] + 1) & 127  # cells covered
        value = palette[color]
        if alpha != OPAQUE:
            mark = plain[low]
            k = (x1 - columns[low, 0]) & 15
            under = palette[mark & 63] if mark != MIXED else np.int64(pixels[low, k])
            value = _mix(under, value, alpha)
        # Only the first and the last of the cells touched can be covered in part.
        for j in range(low, high + 1, max(1, high - low)):
            if full <= j < full_end:
                continue
            mark = plain[j]
            if mark != MIXED:
                under = palette[mark & 63]
                for k in range(LANES):
                    pixels[j, k] = under
                plain[j] = MIXED
                mixed[count] = j
                count += 1
            first = columns[j, 0]
            for k in range(max(x1 - first, 0) & 15, (min(x2 - first, LANES - 1) & 15) + 1):
                pixels[j, k] = value
        for k in range(3 * full, 3 * full_end):
            averages[k] = plain_averages[color, k]
        for j in range(full, full_end):
            plain[j] = color
    return count


@compiled
def _paste(text, y, left, state, count, palette, columns, ranges):
    """Copy row y of the text to the pixels from `left`; returns how many cells are listed."""
    averages, plain, pixels, mixed = state
    right = min(left + text.shape[1], WIDTH)
    for j in range(ranges[left, 0] & 127, (ranges[right - 1, 1] & 127) + 1):
        if plain[j] != MIXED:
            under = palette[plain[j] & 63]
            for k in range(LANES):
                pixels[j, k] = under
            plain[j] = MIXED
            mixed[count] = j
            count += 1
        first = columns[j, 0]
        for x in range(max(left, first), min(right, columns[j, 1] + 1)):
            pixels[j, x - first] = text[y, x - left]
    return count


@compiled
def shrink(commands, counts, palette, plain_averages, text, place, filters, buffers, frame):
    """Turn the commands of a whole surface into the uint8 frame (SIZE, 3 * SIZE).

    commands, counts: of utils/rasterizer.py. palette: int64 0xRRGGBB; plain_averages: of
    `plain_averages_of`. text: int64 0xRRGGBB bitmap; place: its left, top in flipped rows.
    """
    columns, ranges, whole, column_recip, rows, row_recip, bits = filters
    averages, plain, pixels, mixed, total = buffers
    state = averages, plain, pixels, mixed
    cell = SIZE - 1
    for y in range(HEIGHT):
        flipped = HEIGHT - 1 - y
        count = _row(commands[y], counts[y], state, palette, plain_averages, columns, ranges)
        if 0 <= flipped - place[1] < text.shape[0]:
            count = _paste(
                text, flipped - place[1], place[0], state, count, palette, columns, ranges
            )
        for i in range(count):
            j = mixed[i] & 127
            if plain[j] == MIXED:
                _average(pixels, averages, j, columns, whole, column_recip, bits)
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
