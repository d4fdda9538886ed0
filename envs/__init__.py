"""The dream and the real track as Gymnasium environments.

    env = gymnasium.make("envs:DreamCarRacing-v0", run_dir="runs/default")
    envs = gymnasium.make_vec("envs:DreamCarRacing-v0", num_envs=4096, run_dir="runs/default")
    real = gymnasium.make("envs:RealCarRacing-v0", run_dir="runs/default")

All three have the same observations and actions, so an agent trained in a dream drives the real
track unchanged.
"""

import gymnasium

DREAM_STEPS = 200  # default time limit of a dream: M's predictions get worse with every step
REAL_STEPS = 1000  # CarRacing-v3's time limit

gymnasium.register(
    "DreamCarRacing-v0",
    entry_point="envs.dream:DreamCarRacing",
    vector_entry_point="envs.dream_vector:DreamCarRacingVector",
    max_episode_steps=DREAM_STEPS,
)
gymnasium.register(
    "RealCarRacing-v0",
    entry_point="envs.real:RealCarRacing",
    max_episode_steps=REAL_STEPS,
    reward_threshold=900,
)
