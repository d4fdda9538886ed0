"""docs/change_the_model.md: its diffs apply, and the changed agent trains, evolves and drives."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import FLAGS, ROOT, TIMEOUT, Workshop

from utils.io.checkpoints import read_header

DOCUMENT = ROOT / "docs" / "change_the_model.md"
SIZES = {"latent": 6, "hidden": 16, "components": 2}
ROOMS = ("models", "utils", "envs", "fast_car_racing", "tools", "web")

USE_THE_DREAM = """
import sys
import gymnasium
import jax

envs = gymnasium.make_vec("envs:DreamCarRacing-v0", 3, run_dir=sys.argv[1])
observations, _ = envs.reset(seed=0)
assert observations.shape == (3, 22), observations.shape
assert envs.step(envs.action_space.sample())[0].shape == (3, 22)
memory = envs.unwrapped.state.dream.memory
assert type(memory).__name__ == "GRUState" and len(jax.tree.leaves(memory)) == 1
"""


def diffs() -> str:
    return "".join(re.findall(r"^```diff\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.M))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the diffs applied."""
    root = tmp_path_factory.mktemp("changed")
    for room in ROOMS:
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy2(script, root)
    subprocess.run(["git", "apply", "-"], input=diffs(), text=True, cwd=root, check=True)
    return root


def test_the_diffs_change_at_most_three_files() -> None:
    files = re.findall(r"^\+\+\+ b/(.*)$", diffs(), re.M)
    assert 1 <= len(files) == len(set(files)) <= 3


def test_a_gru_of_other_sizes_trains_evolves_and_drives(
    changed: Path, workshop: Workshop, tmp_path: Path
) -> None:
    mine = workshop.copy(tmp_path, "data/rollouts")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=changed,
            env=mine.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    folders = ("--data-dir", str(mine.data), "--run-dir", str(mine.run_dir))
    sizes = {
        "run_vae_training.py": ("--latent", "6"),
        "train_rnn.py": ("--hidden", "16", "--components", "2"),
        "test_agent.py": ("--episodes", "1"),
    }
    for script in (
        *("run_vae_training.py", "process_data.py"),
        *("train_rnn.py", "train_dream.py", "test_agent.py"),
    ):
        done = run(script, *folders, *FLAGS[script], *sizes.get(script, ()))
        assert done.returncode == 0, done.stderr
    assert read_header(mine.run_dir / "vae.eqx").sizes == {"latent": SIZES["latent"]}
    assert read_header(mine.run_dir / "rnn.eqx").sizes == SIZES
    assert read_header(mine.run_dir / "controller.eqx").sizes == {"features": 22}
    evaluation = json.loads((mine.run_dir / "evaluation.json").read_text())
    assert len(evaluation["scores"]) == 1 and evaluation["interval"] == [None, None]

    dream = run("-c", USE_THE_DREAM, str(mine.run_dir))
    assert dream.returncode == 0, dream.stderr
    again = run("train_rnn.py", *folders, *FLAGS["train_rnn.py"], *sizes["train_rnn.py"])
    assert "is finished" in again.stdout
    page = run("-m", "tools.export_web", *folders)
    assert page.returncode == 1 and "Traceback" not in page.stderr
    assert page.stderr.strip().endswith("the page knows only the LSTM, not GRUCell")
    # An agent with an LSTM is refused by name, and the other way round.
    (mine.run_dir / "rnn.eqx").write_bytes((workshop.run_dir / "rnn.eqx").read_bytes())
    refused = run("test_agent.py", *folders, "--episodes", "1")
    assert refused.returncode == 1 and "rnn of another architecture" in refused.stderr
