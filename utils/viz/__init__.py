"""Figures and videos."""

import contextlib
import os
import sys

# matplotlib cannot be imported where MPLBACKEND names a backend that is not installed: a notebook
# hands its own to the commands it runs. Figures here are only written to files, by no backend.
if "matplotlib" not in sys.modules:
    _backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = _backend
    # Whatever the user's matplotlibrc says: `text.usetex` there would need LaTeX, for one.
    matplotlib.rcdefaults()
