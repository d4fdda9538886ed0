"""Box2D: a wheel where there is one; elsewhere pip compiles it.

    python fast_car_racing/installation.py    # says what compiling lacks here; for `make`

box2d 2.3.10 has wheels for Python 3.10 to 3.13, but neither wheels for ARM64 Linux nor sources.
pyproject.toml takes box2d-py 2.3.8 there, which has sources only. Needs the standard library alone.
"""

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

WHEEL = "box2d==2.3.10"
SOURCES = "box2d-py==2.3.8"


def has_wheel() -> bool:
    """Whether Box2D has a wheel for this Python and machine, by the markers of pyproject.toml."""
    return sys.version_info < (3, 14) and platform.machine() != "aarch64"


def _found(tool: str) -> bool:
    path = shutil.which(tool)
    if path is None:
        return False
    # PyPI's swig is a Python script that fails in the isolated environment in which pip builds.
    return tool != "swig" or not Path(path).read_bytes().startswith(b"#!")


def missing_tools() -> list[str]:
    """What compiling Box2D needs and this machine lacks, by the names of Debian's packages."""
    missing = []
    compilers = [os.environ.get(name) or sysconfig.get_config_var(name) for name in ("CC", "CXX")]
    if not all(_found(command.split()[0]) for command in compilers if command):
        missing.append("g++")
    if not _found("swig"):
        missing.append("swig")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append("python3-dev")
    return missing


def problem() -> str:
    """One line on what to install before pip can compile Box2D; "" if nothing is missing."""
    missing = [] if has_wheel() else missing_tools()
    if not missing:
        return ""
    return (
        f"Box2D has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]} on "
        f"{platform.machine()} and must be compiled. Install first: {' '.join(missing)} "
        f"(Debian and Ubuntu: apt-get install {' '.join(missing)})."
    )


def missing_box2d() -> str:
    """One line on how to install Box2D where it is missing."""
    command = f"pip install {WHEEL if has_wheel() else SOURCES}"
    said = problem()
    return f"{said} Then run: {command}" if said else f"Box2D is missing. Run: {command}"


if __name__ == "__main__":
    sys.exit(problem() or 0)
