"""Box2D on each Python and machine, and what a user reads where it is missing."""

import os
import platform
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fast_car_racing import installation

PACKAGE = Path(installation.__file__).resolve().parent
MACHINES = ["x86_64", "arm64", "aarch64"]
PYTHONS = [(3, 10), (3, 13), (3, 14)]
# Gymnasium without Box2D, on ARM64 Linux without tools.
MAKE = """
import platform, sys
sys.modules["Box2D"] = None
platform.machine = lambda: "aarch64"
import gymnasium
try:
    gymnasium.make("fast_car_racing:FastCarRacing-v3")
except gymnasium.error.DependencyNotInstalled as error:
    print(error)
"""


def requirements():
    """The package's dependencies, as `packaging` reads them."""
    module = pytest.importorskip("packaging.requirements")
    if not (PACKAGE / "pyproject.toml").exists():
        pytest.skip("an installed package has no pyproject.toml")
    text = (PACKAGE / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    return [module.Requirement(line) for line in re.findall(r'^ *"(.*)",', listed, re.MULTILINE)]


def pretend(monkeypatch, python: tuple[int, int], machine: str, tools: Path) -> None:
    """Another Python on another machine, whose PATH is the folder `tools`."""
    monkeypatch.setattr(sys, "version_info", (*python, 0))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tools))
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("CC", "cc -pthread")
    monkeypatch.setenv("CXX", "c++")


def add_tool(tools: Path, name: str, start: bytes = b"\x7fELF") -> None:
    (tools / name).write_bytes(start)
    (tools / name).chmod(0o755)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_one_box2d_on_each_machine(machine, python, monkeypatch, tmp_path):
    pretend(monkeypatch, python, machine, tmp_path)
    target = {"platform_machine": machine, "python_version": "{}.{}".format(*python)}
    needed = [need for need in requirements() if not need.marker or need.marker.evaluate(target)]
    (box2d,) = [need for need in needed if need.name.startswith("box2d")]
    has_wheel = python < (3, 14) and machine != "aarch64"
    assert installation.has_wheel() == has_wheel
    assert f"{box2d.name}{box2d.specifier}" == ("box2d==2.3.10" if has_wheel else "box2d-py==2.3.8")
    others = {need.name for need in needed} - {box2d.name}
    assert others == {"gymnasium", "numba", "numpy", "pygame-ce"}
    assert installation.missing_box2d().endswith(f"pip install {box2d.name}{box2d.specifier}")


def test_missing_tools_are_named_in_one_line(monkeypatch, tmp_path):
    pretend(monkeypatch, (3, 14), "x86_64", tmp_path)
    assert installation.problem() == (
        "Box2D has no wheel for Python 3.14 on x86_64 and must be compiled. Install first: "
        "g++ swig python3-dev (Debian and Ubuntu: apt-get install g++ swig python3-dev)."
    )
    assert installation.missing_box2d().endswith("). Then run: pip install box2d-py==2.3.8")
    add_tool(tmp_path, "cc")
    assert installation.missing_tools() == ["g++", "swig", "python3-dev"]
    add_tool(tmp_path, "c++")
    add_tool(tmp_path, "swig", b"#!/usr/bin/python3")  # PyPI's
    assert installation.missing_tools() == ["swig", "python3-dev"]
    add_tool(tmp_path, "swig")
    add_tool(tmp_path, "Python.h")
    assert installation.missing_tools() == [] and installation.problem() == ""
    assert installation.missing_box2d() == "Box2D is missing. Run: pip install box2d-py==2.3.8"


def test_a_machine_with_a_wheel_needs_no_tools(monkeypatch, tmp_path):
    pretend(monkeypatch, (3, 13), "x86_64", tmp_path)
    assert installation.problem() == ""
    assert installation.missing_box2d() == "Box2D is missing. Run: pip install box2d==2.3.10"


@pytest.mark.parametrize("tools", [False, True])
def test_make_without_box2d_says_what_to_install(tools, tmp_path):
    if tools:
        add_tool(tmp_path, "swig")
        add_tool(tmp_path, "true")
    result = subprocess.run(
        [sys.executable, "-c", MAKE],
        env=os.environ
        | {"PYTHONPATH": str(PACKAGE.parent), "PATH": str(tmp_path), "CC": "true", "CXX": "true"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    assert line.endswith("pip install box2d-py==2.3.8")
    assert ("apt-get install g++ swig" in line) == (not tools)
