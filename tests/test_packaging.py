"""Dependencies are declared once, in pyproject.toml; all other lists and bounds agree with it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

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
    "extras": ("minari", "notebook", "learn"),
    "faults": ("faults", "test"),
    "benchmarks": ("benchmarks",),
}
VERSIONS = [f"3.{minor}" for minor in range(6, 20)]


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
    (package,) = [p for p in LOCK["package"] if p["name"] == PROJECT["name"]]
    expected = {(Requirement(line).name, None) for line in PROJECT["dependencies"]}
    expected |= {(Requirement(line).name, extra) for extra in EXTRAS for line in EXTRAS[extra]}
    locked = set()
    for entry in package["metadata"]["requires-dist"]:
        extra = re.search(r"extra == '([\w-]+)'", entry.get("marker", ""))
        locked.add((entry["name"], extra and extra[1]))
        lines = EXTRAS[extra[1]] if extra else PROJECT["dependencies"]
        (line,) = [line for line in lines if Requirement(line).name == entry["name"]]
        assert SpecifierSet(entry.get("specifier", "")) == Requirement(line).specifier
    assert locked == expected
    assert package["version"] == PROJECT["version"]
    assert SpecifierSet(LOCK["requires-python"]) == SpecifierSet(PROJECT["requires-python"])


def test_the_lock_names_public_addresses_only() -> None:
    hosts = set(re.findall(r"\w+://([^/\"]+)", (ROOT / "uv.lock").read_text()))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


# Stands in for each Python: runs code under that version number, and installs nothing.
STAND_IN = """#!/bin/sh
case "$2" in
    venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    pip) ;;
    *) exec {python} -c "import sys; sys.version_info = {version}; exec(sys.argv[1])" "$2" ;;
esac
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_make_refuses_an_unsupported_python_in_one_line(version: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    numbers = (*map(int, version.split(".")), 0)
    python.write_text(STAND_IN.format(python=sys.executable, version=numbers))
    python.chmod(0o755)
    installed = f"{tmp_path}/venv/installed"
    done = subprocess.run(
        ["make", f"PYTHON={python}", f"VENV={tmp_path}/venv", installed],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if version in supported():
        assert done.returncode == 0 and Path(installed).exists(), done.stderr
    else:
        assert done.returncode == 2 and not (tmp_path / "venv").exists()
        said, makes_own = done.stderr.splitlines()
        assert f"Python {version};" in said and "Error 1" in makes_own
        assert f"Python {supported()[0]} to {supported()[-1]} is needed" in said


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
