"""RL Baselines3 Zoo's own recipe for CarRacing-v3, by the command of README.md.

The recipe repeats each action for two frames, shrinks and greys the frames, and stacks two. With
the same seed, training on the fast environment gives the weights of training on Gymnasium's.
"""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import fast_car_racing

if not (find_spec("rl_zoo3") and find_spec("cv2")):
    pytest.skip("needs rl_zoo3 and opencv-python-headless", allow_module_level=True)
PACKAGE = Path(fast_car_racing.__file__).resolve().parent
README = PACKAGE / "README.md"
if not README.exists():
    pytest.skip("the wheel has no README.md", allow_module_level=True)
REPLACE = "--gym-packages fast_car_racing.replace"
# Sizes alone: the recipe's 8 environments x 512 steps x 10 epochs take minutes.
SMALL = "--n-timesteps 64 --eval-freq -1 --hyperparams n_envs:2 n_steps:16 batch_size:16 n_epochs:2"


def train(command: str, folder: Path) -> dict:
    """Run a training in its own folder; returns the weights."""
    import torch  # optional

    program, *arguments = shlex.split(f"{command} {SMALL} --seed 1 --device cpu --num-threads 1")
    assert program == "rl_zoo3" and arguments.pop(0) == "train"
    folder.mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "rl_zoo3.train", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    (run,) = folder.glob("logs/ppo/CarRacing-v3_1")
    (arguments_file,) = run.rglob("args.yml")
    assert ("fast_car_racing.replace" in arguments_file.read_text()) == (REPLACE in command)
    from stable_baselines3 import PPO  # optional

    weights = PPO.load(run / "CarRacing-v3.zip", device="cpu").get_parameters()["policy"]
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    return weights


@pytest.mark.parametrize("workers", ["dummy", "subproc"])
def test_recipe_learns_the_same_weights(workers, tmp_path):
    (command,) = re.findall(r"^rl_zoo3 train .*$", README.read_text(), re.MULTILINE)
    assert REPLACE in command
    command += f" --vec-env {workers}"
    fast = train(command, tmp_path / "fast")
    original = train(command.replace(REPLACE, ""), tmp_path / "original")
    assert fast.keys() == original.keys()
    assert all((fast[name] == original[name]).all() for name in fast)
