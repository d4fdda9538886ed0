"""Settings of the package's tests: no screen."""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
