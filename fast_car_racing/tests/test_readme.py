"""Every Python block of README.md runs, in an empty folder, with small sizes."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import fast_car_racing

PACKAGE = Path(fast_car_racing.__file__).resolve().parent
README = PACKAGE / "README.md"
if not README.exists():
    pytest.skip("the wheel has no README.md", allow_module_level=True)
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
SMALL = {
    "total_timesteps=1_000_000": "total_timesteps=16",
    "n_steps=512, batch_size=128": "n_steps=8, batch_size=16, n_epochs=1",
    "n_envs=8": "n_envs=2",
    "GAMMA = 8, 128, 1000, 0.99": "GAMMA = 2, 4, 2, 0.99",
}


def shrunk(code: str) -> str:
    for large, small in SMALL.items():
        code = code.replace(large, small)
    return code


def run_block(code: str, folder: Path, *arguments: str) -> None:
    (folder / "main.py").write_text(shrunk(code))
    env = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "main.py", *arguments]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_sizes_are_those_of_the_readme():
    assert all(any(large in block for block in BLOCKS) for large in SMALL)


@pytest.mark.parametrize(
    "number", [n for n, code in enumerate(BLOCKS) if "torch" not in code and "stable_b" not in code]
)
def test_block(number, tmp_path):
    run_block(BLOCKS[number], tmp_path)


@pytest.mark.parametrize("arguments", [["--dummy"], []])
def test_stable_baselines3(arguments, tmp_path):
    if not find_spec("stable_baselines3"):
        pytest.skip("needs stable-baselines3")
    (code,) = [block for block in BLOCKS if "stable_baselines3" in block]
    run_block(code, tmp_path, *arguments)
    assert (tmp_path / "ppo_car_racing.zip").exists()


def test_cleanrl_style_loop(tmp_path):
    if not find_spec("torch"):
        pytest.skip("needs torch")
    (code,) = [block for block in BLOCKS if "from torch import nn" in block]
    run_block(code, tmp_path)
