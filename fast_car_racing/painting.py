"""Paints the rows of spans on a full surface, for `render`."""

from fast_car_racing.compilation import compiled
from fast_car_racing.downscale import blend
from fast_car_racing.spans import HEIGHT, OPAQUE


@compiled
def paint(spans, first, counts, palette, pixels):
    """Paint the spans of a whole surface, in each row from number `first`.

    palette: packed colours. pixels: uint32 0x00RRGGBB, (HEIGHT, WIDTH), written to.
    """
    for y in range(HEIGHT):
        for i in range(first, counts[y]):
            span = spans[y, i]
            x1, x2 = span & 1023, (span >> 10) & 1023
            kind, over = (span >> 26) & 3, palette[(span >> 20) & 63]
            if kind == OPAQUE:
                word = (over & 255) << 16 | (over >> 16 & 255) << 8 | (over >> 32 & 255)
                for x in range(x1, x2 + 1):
                    pixels[y, x] = word
            else:
                phase, change = (span >> 28) & 0xFFFF, (span >> 44) & 0xFFFF
                flip = 255 if span >> 60 else 0
                for x in range(x1, x2 + 1):
                    word = pixels[y, x]
                    under = (word >> 16 & 255) | (word >> 8 & 255) << 16 | (word & 255) << 32
                    mixed = blend(under, over, ((phase >> 8) & 255) ^ flip)
                    pixels[y, x] = (
                        (mixed & 255) << 16 | (mixed >> 16 & 255) << 8 | (mixed >> 32 & 255)
                    )
                    phase += change
