"""Reads the state of a Box2D body in one call.

Each property of a body is a call through SWIG, and most of them make an object for the result.
Here one call unpacks the first 76 bytes of the b2Body, which are the same in Box2D 2.3.10 and
box2d-py 2.3.8. If another Box2D arranges them in another way, the start-up check finds that frames
and motion differ from Gymnasium's.
"""

import ctypes
import struct
from collections.abc import Callable
from functools import partial

import Box2D

# Skipped: type, flags and island; the sweep's centers and earlier angle; the sweep's fraction.
_STATE = struct.Struct("12x 4f 28x f 4x 3f")


def state_reader(body: Box2D.b2Body) -> Callable[[], tuple[float, ...]]:
    """A function that returns the state of a body: x, y, sine and cosine of its angle, the angle,
    velocity x and y, angular velocity. It must not be called after the body was destroyed.
    """
    memory = (ctypes.c_char * _STATE.size).from_address(int(body.this))
    return partial(_STATE.unpack_from, memory)
