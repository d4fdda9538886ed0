"""Settings of the package's tests: no screen; a fixture that replaces CarRacing-v3."""

import os
from collections.abc import Iterator

import pytest

import fast_car_racing

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


@pytest.fixture
def replaced() -> Iterator[None]:
    """The id CarRacing-v3 is FastCarRacing during the test."""
    fast_car_racing.replace_car_racing()
    yield
    fast_car_racing.restore_car_racing()
