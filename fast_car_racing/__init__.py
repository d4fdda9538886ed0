"""Gymnasium's CarRacing-v3 with the same frames, at twenty times the speed.

env = gymnasium.make("fast_car_racing:FastCarRacing-v3")
"""

import gymnasium

ENV_ID = "FastCarRacing-v3"

gymnasium.register(
    ENV_ID,
    entry_point="fast_car_racing.env:FastCarRacing",
    max_episode_steps=1000,
    reward_threshold=900,
)
