"""Shapes and dtypes in the annotations of models/ are checked as tests run."""

import os
import signal

# A shell that runs the tests in the background has them ignore Ctrl-C, and the scripts that they
# start would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before JAX is imported anywhere: tests run on the CPU, whatever the machine has.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

from jaxtyping import install_import_hook

with install_import_hook("models", "beartype.beartype"):
    import models.controller
    import models.dream
    import models.evaluation
    import models.rnn
    import models.vae  # noqa: F401

# Shared by the tests that run the scripts: everything is driven and trained once a session.
from scripts import workshop  # noqa: F401
