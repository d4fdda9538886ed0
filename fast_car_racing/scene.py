"""What Gymnasium draws of a CarRacing world, in its order: ground, car and dashboard."""

import numpy as np

from fast_car_racing.compilation import compiled, inner
from fast_car_racing.polygons import draw_polygons
from fast_car_racing.spans import DASHBOARD, HEIGHT, WIDTH, fill_polygon, fill_rectangle

UNSUPPORTED, ROW_FULL, DRAWN = 0, 1, 2  # results of draw_scene
TREAD_WIDTH = 14 * 0.02  # half a wheel's width in world units: WHEEL_W * SIZE
# The colours of car and dashboard begin each palette: black, tread, hull, then the indicators.
FIXED_COLORS = (
    (0, 0, 0), (77, 77, 77), (204, 0, 0), (255, 255, 255),
    (0, 0, 255), (51, 0, 255), (0, 255, 0), (255, 0, 0),
)  # fmt: skip
BLACK, TREAD, HULL, SPEED, FRONT, REAR, STEERING, GYROSCOPE = range(8)


@inner
def _to_surface(x, y, camera):
    """World to surface coordinates, by Gymnasium's operations in their order."""
    cos, sin, zoom, left, bottom = camera
    return (cos * x - sin * y) * zoom + left, (sin * x + cos * y) * zoom + bottom


@inner
def _palette_index(colors, i, palette):
    """The palette's index of colour i, -1 if the palette does not have it."""
    packed = int(colors[i, 0]) | int(colors[i, 1]) << 16 | int(colors[i, 2]) << 32
    for index in range(len(palette)):
        if palette[index] == packed:
            return index
    return -1


@inner
def _draw_ground(spans, counts, workspace, corners, circles, colors, palette, camera):
    """Draw field, grass and road: corners float64 (n, 4, 2) in world units, colours (n, 3).

    Returns False where Gymnasium has to draw.
    """
    points, indices = workspace[0], workspace[1]
    n = 0
    for i in range(len(corners)):
        x, y = _to_surface(circles[i, 0], circles[i, 1], camera)
        reach = circles[i, 2] * camera[2] + 1
        if x < -reach or x > WIDTH + reach or y < DASHBOARD - reach or y > HEIGHT + reach:
            continue
        left = bottom = 1e9
        right = top = -1e9
        for k in range(4):
            x, y = _to_surface(corners[i, k, 0], corners[i, k, 1], camera)
            left, right, bottom, top = min(left, x), max(right, x), min(bottom, y), max(top, y)
            points[n, k, 0], points[n, k, 1] = int(x), int(y)
        if right <= -1 or left >= WIDTH or top < DASHBOARD - 1 or bottom >= HEIGHT:
            continue
        if max(-left, right, -bottom, top) > 32767:  # SDL_gfx's 16-bit coordinates would wrap
            return False
        index = _palette_index(colors, i, palette)
        if index < 0:
            return False
        indices[n] = index
        n += 1
    draw_polygons(spans, counts, workspace, n)
    return True


@inner
def _draw_car(spans, counts, workspace, shapes, bodies, treads, camera):
    """Draw the wheels, each with its tread, and the four parts of the hull.

    shapes: float32 corners (9, MAX_CORNERS, 2) in body units, NaN where there are fewer. The last
    is scratch for a tread.
    bodies: float64 (20), x, y, sin, cos of the four wheels and the hull.
    treads: float64 (8), front and rear of the light part of each tyre, NaN where it is not visible.
    """
    tread = shapes[8, :4]
    half = np.float32(TREAD_WIDTH)
    for i in range(8):
        body = bodies[4 * min(i, 4) : 4 * min(i, 4) + 4]
        _draw_part(spans, counts, workspace, shapes[i], body, camera, BLACK if i < 4 else HULL)
        if i < 4 and treads[2 * i] == treads[2 * i]:
            tread[0, 0] = tread[3, 0] = -half
            tread[1, 0] = tread[2, 0] = half
            tread[0, 1] = tread[1, 1] = np.float32(treads[2 * i])
            tread[2, 1] = tread[3, 1] = np.float32(treads[2 * i + 1])
            _draw_part(spans, counts, workspace, tread, body, camera, TREAD)


@inner
def _draw_part(spans, counts, workspace, shape, body, camera, color):
    """Draw one polygon of the car, placed in the world with Box2D's single precision."""
    xs, points = workspace[5], workspace[6]
    x0, y0 = np.float32(body[0]), np.float32(body[1])
    sin, cos = np.float32(body[2]), np.float32(body[3])
    n = 0
    for k in range(len(shape)):
        x, y = shape[k, 0], shape[k, 1]
        if x != x:
            break
        left, top = _to_surface(
            np.float64((cos * x - sin * y) + x0), np.float64((sin * x + cos * y) + y0), camera
        )
        points[n, 0], points[n, 1] = int(left), int(top)
        n += 1
    fill_polygon(spans, counts, xs, points[:n], color)


@inner
def _draw_dashboard(spans, counts, values):
    """Draw speed, spin of the four wheels, steering angle, spin of the hull: float64 (7).

    Returns the first column drawn on.
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
        first = min(first, fill_rectangle(spans, counts, left, right, top, bottom, color))
    return first


@inner
def _clear(spans, counts):
    """Begin each row with one black span."""
    for y in range(HEIGHT):
        spans[y, 0] = (WIDTH - 1) << 10 | BLACK << 20
        counts[y] = 1


@inner
def _any_row_full(spans, counts):
    for y in range(HEIGHT):  # noqa: SIM110, numba has no generator expressions
        if counts[y] >= spans.shape[1] - 2:
            return True
    return False


@compiled
def draw_scene(spans, counts, workspace, view, corners, circles, colors, shapes, palette, text):
    """Write the spans of a whole surface, int64 (HEIGHT, capacity), and their counts (HEIGHT).

    view: float64 (40): the camera's cos, sin, zoom, x and y offset; seven indicators; `bodies` and
    `treads` of the car. corners, colors: of field, grass and road; circles: x, y, radius around
    each. shapes: of the car; if there are none, draws the ground alone. palette: packed colours,
    beginning with FIXED_COLORS. text: last column of the score.
    Returns DRAWN; UNSUPPORTED where Gymnasium has to draw; ROW_FULL where a row exceeds the
    capacity.
    """
    _clear(spans, counts)
    camera = (view[0], view[1], view[2], view[3], view[4])
    if not _draw_ground(spans, counts, workspace, corners, circles, colors, palette, camera):
        return UNSUPPORTED
    if len(shapes):
        _draw_car(spans, counts, workspace, shapes, view[12:32], view[32:40], camera)
        if _draw_dashboard(spans, counts, view[5:12]) <= text:
            return UNSUPPORTED
    return ROW_FULL if _any_row_full(spans, counts) else DRAWN
