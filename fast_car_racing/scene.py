"""What Gymnasium draws of a CarRacing world, in its order: ground, car and dashboard."""

import numpy as np

from fast_car_racing.polygons import smooth_polygons
from fast_car_racing.spans import (
    DASHBOARD,
    HEIGHT,
    WIDTH,
    compiled,
    inner,
    plain_polygon,
    rectangle,
)

REFUSED, CROWDED, DRAWN = 0, 1, 2  # how draw_scene can end
TREAD_WIDTH = 14 * 0.02  # half a wheel's width in world units: WHEEL_W * SIZE
# The colours of car and dashboard begin every palette: black, tread, hull, then the indicators.
FIXED_COLORS = (
    (0, 0, 0), (77, 77, 77), (204, 0, 0), (255, 255, 255),
    (0, 0, 255), (51, 0, 255), (0, 255, 0), (255, 0, 0),
)  # fmt: skip
BLACK, TREAD, HULL, SPEED, FRONT, REAR, STEERING, GYROSCOPE = range(8)


@inner
def _place(x, y, camera):
    """World to surface, truncated to whole pixels: the operations of Gymnasium in their order."""
    cos, sin, zoom, left, bottom = camera
    return (cos * x - sin * y) * zoom + left, (sin * x + cos * y) * zoom + bottom


@inner
def _color_of(colors, i, palette):
    """Place of a colour in the palette, -1 if it is not there."""
    packed = int(colors[i, 0]) | int(colors[i, 1]) << 16 | int(colors[i, 2]) << 32
    for place in range(len(palette)):
        if palette[place] == packed:
            return place
    return -1


@inner
def _ground(commands, counts, scratch, corners, circles, colors, palette, camera):
    """Field, grass and road: float64 (n, 4, 2) in world units with colours (n, 3), in order."""
    points, places = scratch[0], scratch[1]
    n = 0
    for i in range(len(corners)):
        x, y = _place(circles[i, 0], circles[i, 1], camera)
        reach = circles[i, 2] * camera[2] + 1
        if x < -reach or x > WIDTH + reach or y < DASHBOARD - reach or y > HEIGHT + reach:
            continue
        left = bottom = 1e9
        right = top = -1e9
        for k in range(4):
            x, y = _place(corners[i, k, 0], corners[i, k, 1], camera)
            left, right, bottom, top = min(left, x), max(right, x), min(bottom, y), max(top, y)
            points[n, k, 0], points[n, k, 1] = int(x), int(y)
        if right <= -1 or left >= WIDTH or top < DASHBOARD - 1 or bottom >= HEIGHT:
            continue
        if max(-left, right, -bottom, top) > 32767:  # SDL_gfx's 16-bit coordinates would wrap
            return False
        color = _color_of(colors, i, palette)
        if color < 0:
            return False
        places[n] = color
        n += 1
    smooth_polygons(commands, counts, scratch, n)
    return True


@inner
def _car(commands, counts, scratch, shapes, bodies, treads, camera):
    """Wheels, each with its tread, and the four parts of the hull.

    shapes: float32 corners (9, MAX_CORNERS, 2) in body units, NaN where there are fewer; the last
    is free for a tread.
    bodies: float64 (20), x, y, cos, sin of the four wheels and the hull.
    treads: float64 (8), front and rear of the light part of each tyre, NaN where out of sight.
    """
    tread = shapes[8, :4]
    half = np.float32(TREAD_WIDTH)
    for i in range(8):
        body = bodies[4 * min(i, 4) : 4 * min(i, 4) + 4]
        _part(commands, counts, scratch, shapes[i], body, camera, BLACK if i < 4 else HULL)
        if i < 4 and treads[2 * i] == treads[2 * i]:
            tread[0, 0] = tread[3, 0] = -half
            tread[1, 0] = tread[2, 0] = half
            tread[0, 1] = tread[1, 1] = np.float32(treads[2 * i])
            tread[2, 1] = tread[3, 1] = np.float32(treads[2 * i + 1])
            _part(commands, counts, scratch, tread, body, camera, TREAD)


@inner
def _part(commands, counts, scratch, shape, body, camera, color):
    """One polygon of the car, placed in the world with Box2D's single precision."""
    xs, points = scratch[5], scratch[6]
    x0, y0 = np.float32(body[0]), np.float32(body[1])
    cos, sin = np.float32(body[2]), np.float32(body[3])
    n = 0
    for k in range(len(shape)):
        x, y = shape[k, 0], shape[k, 1]
        if x != x:
            break
        left, top = _place(
            np.float64((cos * x - sin * y) + x0), np.float64((sin * x + cos * y) + y0), camera
        )
        points[n, 0], points[n, 1] = int(left), int(top)
        n += 1
    plain_polygon(commands, counts, xs, points[:n], color)


@inner
def _dashboard(commands, counts, values):
    """True speed, angular speed of four wheels, steering angle, angular speed: float64 (7).

    Returns the first column drawn in.
    """
    first = WIDTH
    for i in range(7):
        value = values[i]
        if not abs(value) > 1e-4:
            continue
        if i < 5:
            place, scale = (5, 0.02) if i == 0 else (6 + i, 0.01)
            color = SPEED if i == 0 else FRONT if i < 3 else REAR
            left, right = place * 25.0, (place + 1) * 25.0
            top, bottom = HEIGHT - (20.0 + 20.0 * (scale * value)), 780.0
        else:
            place, scale = (20, -10.0) if i == 5 else (30, -0.8)
            color = STEERING if i == 5 else GYROSCOPE
            left, right = place * 25.0, (place + scale * value) * 25.0
            top, bottom = 720.0, 760.0
        first = min(first, rectangle(commands, counts, left, right, top, bottom, color))
    return first


@compiled
def draw_scene(commands, counts, scratch, view, corners, circles, colors, shapes, palette, text):
    """Fill `commands` (HEIGHT, most) and their `counts` (HEIGHT) with a whole surface.

    view: float64 (40): the camera's cos, sin, zoom, x and y shift; seven indicators; `bodies` and
    `treads` of the car. corners, colors: of field, grass and road, each in a circle x, y, radius.
    palette: int64 0xRRGGBB, beginning with `FIXED_COLORS`. text: the last column of the score.
    Returns REFUSED where a frame is beyond this renderer, CROWDED where a row has no room for its
    commands, else DRAWN.
    """
    for y in range(HEIGHT):
        commands[y, 0] = (WIDTH - 1) << 10 | BLACK << 20
        counts[y] = 1
    camera = (view[0], view[1], view[2], view[3], view[4])
    if not _ground(commands, counts, scratch, corners, circles, colors, palette, camera):
        return REFUSED
    _car(commands, counts, scratch, shapes, view[12:32], view[32:40], camera)
    if _dashboard(commands, counts, view[5:12]) <= text:
        return REFUSED
    for y in range(HEIGHT):
        if counts[y] >= commands.shape[1] - 2:
            return CROWDED
    return DRAWN
