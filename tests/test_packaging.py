"""Dependencies are declared once, in pyproject.toml; all other lists and bounds agree with it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import parse_wheel_filename

from fast_car_racing import installation

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
EXTRAS = PROJECT["optional-dependencies"]
# The extras that each file of requirements/ holds beside the dependencies.
FILES = {
    "test": ("test",),
    "lint": ("lint",),
    "dask": ("dask",),
    "hub": ("hub",),
    "track": ("track",),
    "extras": ("track", "minari", "notebook", "learn"),
    "faults": ("faults", "test"),
    "benchmarks": ("benchmarks",),
}
VERSIONS = [f"3.{minor}" for minor in range(6, 20)]
TARGETS = [
    {"python_version": python, **machine, "python_full_version": f"{python}.1"}
    | {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    for python in ("3.10", "3.13", "3.14")
    for machine in (
        {"platform_machine": "x86_64", "sys_platform": "linux", "platform_system": "Linux"},
        {"platform_machine": "aarch64", "sys_platform": "linux", "platform_system": "Linux"},
        {"platform_machine": "arm64", "sys_platform": "darwin", "platform_system": "Darwin"},
    )
]


def normal(lines: list[str]) -> set[str]:
    return {str(Requirement(line)) for line in lines}


def listed(path: Path) -> set[str]:
    """The requirements of a file, and of the files that it names by -r."""
    found = set()
    for line in path.read_text().splitlines():
        text = re.sub(r"(^|\s+)#.*", "", line).strip()
        if text.startswith("-r "):
            found |= listed(path.parent / text.removeprefix("-r "))
        elif text and not text.startswith("-"):
            found |= normal([text])
    return found


def supported() -> list[str]:
    bounds = SpecifierSet(PROJECT["requires-python"])
    return [version for version in VERSIONS if version in bounds]


def test_requirements_txt_lists_the_dependencies() -> None:
    assert listed(ROOT / "requirements.txt") == normal(PROJECT["dependencies"])


def test_every_optional_list_is_known() -> None:
    assert {path.stem for path in (ROOT / "requirements").glob("*.txt")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_optional_lists_equal_the_extras(name: str) -> None:
    extras = [line for extra in FILES[name] for line in EXTRAS[extra]]
    assert listed(ROOT / "requirements" / f"{name}.txt") == normal(
        [*PROJECT["dependencies"], *extras]
    )


def test_the_lock_is_made_from_these_dependencies() -> None:
    """Names, versions and markers, on every supported Python and machine."""
    package = locked(PROJECT["name"])
    entries = [
        (Requirement(f"{entry['name']}{entry.get('specifier', '')}"), entry.get("marker", ""))
        for entry in package["metadata"]["requires-dist"]
    ]
    for target in TARGETS:
        for extra in ("", *EXTRAS):
            lines = EXTRAS[extra] if extra else PROJECT["dependencies"]
            expected = {
                (need.name, need.specifier)
                for need in map(Requirement, lines)
                if need.marker is None or need.marker.evaluate(target)
            }
            assert expected == {
                (need.name, need.specifier)
                for need, marker in entries
                if f"extra == '{extra}'" in marker or not (extra or "extra ==" in marker)
                if not marker or Marker(marker).evaluate(target | {"extra": extra})
            }
    assert package["version"] == PROJECT["version"]
    assert SpecifierSet(LOCK["requires-python"]) == SpecifierSet(PROJECT["requires-python"])


def locked(name: str, version: str | None = None) -> dict:
    """The lock's entry for a package."""
    (entry,) = [
        entry
        for entry in LOCK["package"]
        if entry["name"] == name and version in (None, entry["version"])
    ]
    return entry


def installed(target: dict[str, str]) -> set[tuple[str, str]]:
    """Names and versions of what the lock installs without extras."""
    found: set[tuple[str, str]] = set()
    open_entries = [(locked(PROJECT["name"]), "")]
    while open_entries:
        entry, extra = open_entries.pop()
        needs = entry.get("optional-dependencies", {})[extra] if extra else entry["dependencies"]
        for need in needs:
            # Several versions of one package are told apart by markers.
            if not Marker(need.get("marker", "python_version > '0'")).evaluate(target):
                continue
            child = locked(need["name"], need.get("version"))
            key = (child["name"], child["version"])
            extras = ["", *need.get("extra", ())] if key not in found else need.get("extra", ())
            open_entries += [({"dependencies": []} | child, name) for name in extras]
            found.add(key)
    return found


def has_wheel(package: dict, python: str, machine: str, system: str) -> bool:
    names = [unquote(wheel["url"]).rsplit("/")[-1] for wheel in package.get("wheels", ())]
    tags = {tag for name in names for tag in parse_wheel_filename(name)[3]}
    minor = int(python.split(".")[1])
    machines = (machine, "universal2") if system == "macosx" else machine
    return any(
        (
            tag.interpreter in ("py3", f"py3{minor}", f"cp3{minor}")
            if tag.abi != "abi3"
            else int(tag.interpreter.removeprefix("cp3")) <= minor
        )
        and tag.abi in ("none", "abi3", f"cp3{minor}")
        and (tag.platform == "any" or (system in tag.platform and tag.platform.endswith(machines)))
        for tag in tags
    )


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: "-".join(list(target.values())[:3]))
def test_all_dependencies_are_wheels_but_box2d_on_some_machines(target: dict[str, str]) -> None:
    python, machine = target["python_version"], target["platform_machine"]
    system = "linux" if target["sys_platform"] == "linux" else "macosx"
    packages = installed(target)
    assert len(packages) > 30
    compiled = {
        name
        for name, version in packages
        if not has_wheel(locked(name, version), python, machine, system)
    }
    needs_compiler = python == "3.14" or (machine, system) == ("aarch64", "linux")
    assert compiled == ({"box2d-py"} if needs_compiler else set())
    assert len({name for name, _ in packages} & {"box2d", "box2d-py"}) == 1


def test_fast_car_racing_takes_the_same_box2d() -> None:
    package = tomllib.loads((ROOT / "fast_car_racing" / "pyproject.toml").read_text())["project"]
    assert set(package["dependencies"]) <= set(PROJECT["dependencies"])
    assert {installation.WHEEL, installation.SOURCES} == {
        line.split(";")[0] for line in package["dependencies"] if line.startswith("box2d")
    }


def test_the_lock_names_public_addresses_only() -> None:
    hosts = set(re.findall(r"\w+://([^/\"]+)", (ROOT / "uv.lock").read_text()))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


# Stands in for each Python: runs code under that version number, and installs nothing. Its headers
# are those of the folder it lies in.
STAND_IN = """#!/bin/sh
case "$2" in
    venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; exit ;;
    pip) exit ;;
esac
case "$1" in
    -c) code=$2 ;;
    *) code=$(cat "$1") ;;
esac
exec {python} -c "
import platform, sys, sysconfig
sys.version_info, platform.machine = {version}, lambda: '{machine}'
sysconfig.get_path = lambda name: '{folder}'
exec(sys.argv[1])" "$code"
"""


def make_installed(folder: Path, version: str, machine: str, swig: bool):
    """`make .venv/installed` with a stand-in for Python, a compiler, and perhaps SWIG."""
    python = folder / "python"
    numbers = (*map(int, version.split(".")), 0)
    python.write_text(
        STAND_IN.format(python=sys.executable, version=numbers, machine=machine, folder=folder)
    )
    python.chmod(0o755)
    (folder / "Python.h").touch()
    tools = folder / "tools"
    tools.mkdir()
    for name in ("mkdir", "cp", "cat", "touch", "sh", "make", *(["swig"] if swig else [])):
        (tools / name).symlink_to(str(shutil.which("true" if name == "swig" else name)))
    return subprocess.run(
        ["make", f"PYTHON={python}", f"VENV={folder}/venv", f"{folder}/venv/installed"],
        cwd=ROOT,
        env=os.environ | {"PATH": str(tools), "CC": "cat", "CXX": "cat"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_make_refuses_an_unsupported_python_in_one_line(version: str, tmp_path: Path) -> None:
    done = make_installed(tmp_path, version, "x86_64", swig=True)
    if version in supported():
        assert done.returncode == 0 and (tmp_path / "venv" / "installed").exists(), done.stderr
    else:
        assert done.returncode == 2 and not (tmp_path / "venv").exists()
        said, makes_own = done.stderr.splitlines()
        assert f"Python {version};" in said and "Error 1" in makes_own
        assert f"Python {supported()[0]} to {supported()[-1]} is needed" in said


@pytest.mark.parametrize("version", supported())
@pytest.mark.parametrize("machine", ["x86_64", "arm64", "aarch64"])
def test_make_without_swig_says_so_in_one_line(version: str, machine: str, tmp_path: Path) -> None:
    done = make_installed(tmp_path, version, machine, swig=False)
    if version != "3.14" and machine != "aarch64":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2 and not (tmp_path / "venv").exists()
        said, makes_own = done.stderr.splitlines()
        assert f"Box2D has no wheel for Python {version} on {machine}" in said
        assert said.endswith("apt-get install swig).") and "Error 1" in makes_own


def test_the_container_and_uv_take_a_supported_python() -> None:
    (container,) = re.findall(r"^FROM python:([\d.]+)", (ROOT / "Dockerfile").read_text(), re.M)
    assert {container, (ROOT / ".python-version").read_text().strip()} <= set(supported())


def test_the_citation_has_what_its_format_requires() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # the schema's own list
    works = [citation, *citation["references"]]
    people = [person for work in works for person in work["authors"]]
    assert people
    for person in people:
        assert set(person) == {"name"} or set(person) == {"family-names", "given-names"}
    assert all({"type", "title", "authors"} <= set(work) for work in works)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", citation["date-released"])


def test_one_version_and_one_address_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    newest = re.search(r"^## ([\d.]+) ", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest and newest[1] == PROJECT["version"]
    address = PROJECT["urls"]["Repository"]
    assert citation["repository-code"] == address
    assert f"git clone {address}.git" in (ROOT / "README.md").read_text()


def test_one_command_fills_in_the_address_everywhere(tmp_path: Path) -> None:
    """The command of CONTRIBUTING.md, run on a copy of all files that Git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name, follow_symlinks=False)
    (command,) = re.findall(r"^git grep .*$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    command = command.replace("you/your-repository", "ada/cars")
    for line in ("git init --quiet", "git add --all", command):
        subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    old = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    found = ["git", "grep", "--fixed-strings", "--files-with-matches"]
    assert subprocess.run([*found, old], cwd=tmp_path, capture_output=True).stdout == b""
    text = subprocess.check_output([*found, "ada/cars"], cwd=tmp_path, text=True)
    places = {"README.md", "pyproject.toml", "CITATION.cff", "examples/quick_run.ipynb"}
    assert places <= set(text.split())
    notebook = (tmp_path / "examples" / "quick_run.ipynb").read_text()
    cells = ["".join(cell["source"]) for cell in json.loads(notebook)["cells"]]
    badge = "https://colab.research.google.com/github/ada/cars/blob/main/examples/quick_run.ipynb"
    assert f"]({badge})" in cells[0]
    assert any('REPOSITORY = "https://github.com/ada/cars"\n' in cell for cell in cells)
