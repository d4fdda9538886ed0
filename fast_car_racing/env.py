"""The environment: CarRacing with another renderer, a faster car and frame skipping."""

import warnings

import gymnasium
import numpy as np
import pygame
from gymnasium.error import DependencyNotInstalled
from gymnasium.utils import EzPickle

from fast_car_racing.installation import missing_box2d

try:
    from gymnasium.envs.box2d.car_racing import CarRacing
except DependencyNotInstalled as error:
    raise DependencyNotInstalled(missing_box2d()) from error

from fast_car_racing.car import make_fast
from fast_car_racing.renderer import Renderer
from fast_car_racing.startup_check import (
    drawing_difference,
    film_difference,
    motion_difference,
)


def _agrees(part: str, difference: str) -> bool:
    """Whether a check found no difference; warns if it found one."""
    if difference:
        warnings.warn(
            f"FastCarRacing uses Gymnasium's own slow {part}: {difference} "
            f"(gymnasium {gymnasium.__version__}, pygame {pygame.version.ver}).",
            stacklevel=3,
        )
    return not difference


def _positive_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and value >= 1


class FastCarRacing(CarRacing):
    """CarRacing-v3 with the same observations, rewards, ends and infos, faster.

    Tracks, rewards, ends and the Box2D world are Gymnasium's code. `Renderer` draws the
    observation and the frames of `rgb_array`. Where the start-up check finds a difference to the
    installed Gymnasium, the environment warns and uses Gymnasium's code.

    Args:
        *args, **kwargs: as CarRacing.
        frame_skip: each `step` repeats its action for so many frames and draws the last one. It
            returns the sum of the rewards, and stops early where the episode ends.
        max_frames: with frame_skip > 1, the episode is truncated after so many frames, as by the
            time limit of CarRacing-v3; None for no limit. `max_episode_steps` of
            `gymnasium.make` counts steps, each of frame_skip frames.
    """

    def __init__(self, *args, frame_skip: int = 1, max_frames: int | None = 1000, **kwargs):
        if not _positive_integer(frame_skip):
            raise ValueError(f"frame_skip must be a positive integer, not {frame_skip!r}")
        if not (max_frames is None or _positive_integer(max_frames)):
            raise ValueError(f"max_frames must be a positive integer or None, not {max_frames!r}")
        super().__init__(*args, **kwargs)
        EzPickle.__init__(self, *args, frame_skip=frame_skip, max_frames=max_frames, **kwargs)
        self.frame_skip, self.max_frames = frame_skip, max_frames
        self._frames = 0
        self._draws_later = False
        self._score_to_draw = 0.0
        self._renderer: Renderer | None = None
        backend = pygame.transform.get_smoothscale_backend()
        self._draws_fast = _agrees("renderer", drawing_difference(backend))
        self._drives_fast = _agrees("car", motion_difference())

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """As CarRacing.reset."""
        self._renderer = None  # the track will be new
        self._frames = 0
        result = super().reset(seed=seed, options=options)
        if self._drives_fast:
            make_fast(self.car)
        return result

    def step(self, action):
        """As CarRacing.step, for `frame_skip` frames."""
        if action is None or self.frame_skip == 1:  # None: the first step, called by reset
            self._draws_later = False
            return super().step(action)
        total = 0.0
        for frame in range(1, self.frame_skip + 1):
            self._frames += 1
            truncated = self.max_frames is not None and self._frames >= self.max_frames
            self._draws_later = frame < self.frame_skip and not truncated
            state, reward, terminated, _, info = super().step(action)
            total += reward
            if terminated or truncated:
                break
        if self._draws_later:  # the episode ended in a frame that was not drawn
            state = self._draw_ended()
        return state, total, terminated, truncated, info

    def _draw_ended(self) -> np.ndarray:
        """Draw the current frame with the score that CarRacing.step had when it drew."""
        self._draws_later = False
        score, self.reward = self.reward, self._score_to_draw
        self.state = self._render("state_pixels")
        self.reward = score
        return self.state

    def _render(self, mode: str):
        if mode == "state_pixels" and self._draws_later:
            self._score_to_draw = self.reward
            return None
        frame = None
        if self.car is not None and self._draws_fast:
            if mode == "state_pixels":
                frame = self._track_renderer().draw(self)
            elif mode == "rgb_array" and _agrees("drawing of films", film_difference()):
                frame = self._track_renderer().draw_film(self)
        return super()._render(mode) if frame is None else frame

    def _track_renderer(self) -> Renderer:
        if self._renderer is None or self._renderer.car is not self.car:
            self._renderer = Renderer(self)
        return self._renderer
