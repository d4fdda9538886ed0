"""How the return of a dream depends on its temperature.

    python -m examples.temperature
    python -m examples.temperature --run-dir runs/quick --temperatures 0.5 1.0 2.0

The controller of --run-dir drives the same number of dreams at each temperature. Prints the mean
and standard deviation of the return, and the share of dreams that ended in failure.
"""

import argparse
from pathlib import Path

import gymnasium
import jax
import numpy as np

from models.controller import Controller
from utils.io.checkpoints import load_controller, read_header
from utils.io.hub import fetch_run_folder
from utils.output import protect_output


def drive(
    run_dir: Path, controller: Controller, temperature: float, dreams: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns in points, and whether each dream failed: arrays of shape (dreams,)."""
    envs = gymnasium.make_vec(
        "envs:DreamCarRacing-v0",
        num_envs=dreams,
        run_dir=run_dir,
        temperature=temperature,
        max_episode_steps=steps,
        autoreset_mode="SameStep",
    )
    act = jax.jit(lambda z, hidden: controller(z, hidden))
    observation, _ = envs.reset(seed=0)  # the same start states at every temperature
    latent = read_header(run_dir / "rnn.eqx").sizes["latent"]
    returns, failed = np.zeros(dreams), np.zeros(dreams, bool)
    for _ in range(steps):
        actions = np.asarray(act(observation[:, :latent], observation[:, latent:]))
        observation, rewards, terminated, _, _ = envs.step(actions)
        returns += np.where(failed, 0.0, rewards)  # only the first dream of each environment
        failed |= terminated
    envs.close()
    return returns, failed


def main() -> None:
    """Print a row for each temperature."""
    protect_output()
    parser = argparse.ArgumentParser(
        prog="python -m examples.temperature",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run-dir", default="pretrained", help="run folder (default: pretrained)")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.1, 0.5, 1.0, 2.0, 3.0])
    parser.add_argument("--dreams", type=int, default=256, help="dreams per temperature (256)")
    parser.add_argument("--steps", type=int, default=200, help="steps of a dream (200)")
    flags = parser.parse_args()
    run_dir = fetch_run_folder(flags.run_dir)
    _, controller = load_controller(run_dir / "controller.eqx")
    for temperature in flags.temperatures:
        returns, failed = drive(run_dir, controller, temperature, flags.dreams, flags.steps)
        print(
            f"temperature {temperature:.2f}: return {returns.mean():.0f} ± {returns.std():.0f}, "
            f"{failed.mean():.0%} failed"
        )


if __name__ == "__main__":
    main()
