"""PPO learns to drive inside the dream, then drives the real track.

    pip install -r requirements/extras.txt
    python -m examples.ppo_in_the_dream                           # the shipped agent's dream
    python -m examples.ppo_in_the_dream --run-dir runs/default --steps 1000000

Reads V and M of --run-dir; PPO replaces the linear controller and CMA-ES. PPO learns from dreams
only. The real tracks at the end measure what it learned.
"""

import argparse
import importlib.util
import sys
from typing import Any

import gymnasium
import numpy as np

from utils.output import protect_output
from utils.runtime import format_score

ROLLOUT = 50  # steps of each dream between two updates
FIRST_TRACK = 80_000_000  # validation tracks


def learn(run_dir: str, steps: int, dreams: int, temperature: float) -> Any:
    """A PPO agent, trained for `steps` dreamed steps in `dreams` parallel dreams."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

    from envs.stable_baselines import StableBaselinesEnv

    vector = gymnasium.make_vec(
        "envs:DreamCarRacing-v0",
        num_envs=dreams,
        run_dir=run_dir,
        temperature=temperature,
        autoreset_mode="SameStep",  # what Stable-Baselines3 expects
    )
    env = VecNormalize(VecMonitor(StableBaselinesEnv(vector)), norm_obs=False)
    batch = dreams * ROLLOUT
    agent = PPO(
        "MlpPolicy",
        env,
        n_steps=ROLLOUT,
        batch_size=batch // 8,
        n_epochs=4,
        learning_rate=3e-4,
        seed=0,
        device="cpu",  # the policy is too small for a GPU to help
    )
    while agent.num_timesteps < steps:
        agent.learn(batch, reset_num_timesteps=False)
        returns = [episode["r"] for episode in agent.ep_info_buffer or ()]
        mean = f"{np.mean(returns):.0f}" if returns else "not known yet"
        print(f"{agent.num_timesteps:,} dreamed steps, mean return of a dream: {mean}")
    return agent


def drive(agent: Any, run_dir: str, track: int, steps: int) -> float:
    """The score of the agent on a real track."""
    real = gymnasium.make("envs:RealCarRacing-v0", run_dir=run_dir, max_episode_steps=steps)
    observation, _ = real.reset(seed=track)
    score, done = 0.0, False
    while not done:
        action, _ = agent.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = real.step(action)
        score += float(reward)
        done = terminated or truncated
    real.close()
    return score


def main() -> None:
    """Learn in the dream, then drive."""
    protect_output()
    parser = argparse.ArgumentParser(
        prog="python -m examples.ppo_in_the_dream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run-dir", default="pretrained", help="run folder (default: pretrained)")
    parser.add_argument("--steps", type=int, default=300_000, help="dreamed steps (300000)")
    parser.add_argument("--dreams", type=int, default=256, help="dreams in parallel (256)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the dream (1.0)")
    parser.add_argument("--tracks", type=int, default=8, help="real tracks to drive (8)")
    parser.add_argument("--real-steps", type=int, default=1000, help="limit of a drive (1000)")
    flags = parser.parse_args()
    if importlib.util.find_spec("stable_baselines3") is None:
        sys.exit("stable-baselines3 is missing: pip install -r requirements/extras.txt")
    agent = learn(flags.run_dir, flags.steps, flags.dreams, flags.temperature)
    scores = []
    for track in range(FIRST_TRACK, FIRST_TRACK + flags.tracks):
        scores.append(drive(agent, flags.run_dir, track, flags.real_steps))
        print(f"real track {track}: {scores[-1]:.0f}")
    if scores:
        print(f"real score: {format_score(scores, '.0f')} on {len(scores)} tracks")


if __name__ == "__main__":
    main()
