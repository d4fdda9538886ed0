"""The distributions that pip installs: contents, dependencies, types."""

import re
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


@pytest.mark.parametrize("machine", ["x86_64", "arm64", "aarch64"])
@pytest.mark.parametrize("python", ["3.10", "3.13", "3.14"])
def test_box2d_on_each_machine(machine, python):
    """Gymnasium's extra where its Box2D has wheels or an sdist, else box2d-py by name."""
    requirements = pytest.importorskip("packaging.requirements")
    text = (PACKAGE / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    needed = [requirements.Requirement(line) for line in re.findall(r'"(.*)"', listed)]
    target = {"platform_machine": machine, "python_version": python}
    installed = [need for need in needed if need.marker is None or need.marker.evaluate(target)]
    names = sorted(need.name for need in installed)
    if machine == "aarch64":
        assert names == ["box2d-py", "gymnasium", "numba", "numpy", "pygame-ce"]
    else:
        assert names == ["gymnasium", "numba", "numpy"]
        assert any(need.extras == {"box2d"} for need in installed)


def test_license_is_the_repositorys():
    repository = PACKAGE.parent / "LICENSE"
    if not repository.exists():
        pytest.skip("not in the repository")
    assert (PACKAGE / "LICENSE").read_bytes() == repository.read_bytes()
