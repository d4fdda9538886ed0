"""The distributions that pip installs: contents and licence."""

import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import fast_car_racing

PACKAGE = Path(fast_car_racing.__file__).resolve().parent
if not (PACKAGE / "pyproject.toml").exists():
    pytest.skip("an installed package has no pyproject.toml", allow_module_level=True)


def test_wheel_and_sdist(tmp_path):
    if not (find_spec("build") and find_spec("hatchling")):
        pytest.skip("needs build and hatchling")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, PACKAGE]
    subprocess.run(command, check=True, capture_output=True)
    modules = {path.name for path in PACKAGE.glob("*.py")}
    (wheel,) = tmp_path.glob("*.whl")  # built from the sdist
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == {f"fast_car_racing/{name}" for name in {*modules, "py.typed"}}
    assert any(name.endswith("LICENSE") for name in names)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {*modules, "py.typed", "LICENSE", "README.md", "tests/test_package.py"} <= names


def test_license_is_the_repositorys():
    repository = PACKAGE.parent / "LICENSE"
    if not repository.exists():
        pytest.skip("not in the repository")
    assert (PACKAGE / "LICENSE").read_bytes() == repository.read_bytes()
