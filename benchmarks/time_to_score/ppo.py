"""PPO of Stable-Baselines3, trained in sessions and evaluated on real tracks as it goes."""

import io
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from utils.io.files import write_atomically
from utils.io.records import append_record, read_records
from utils.sim.env import MAX_STEPS, make_environment, rollout

SEED = 0
SAVE_SECONDS = 60.0  # between saved states, all that a kill can lose
CARS = 25  # driven at a time in an evaluation; each keeps up to 12 MB of frames
REHEARSAL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1}

# For the frames of all cars, uint8 (cars, 64, 64, 3): actions float32 (cars, 3).
Act = Callable[[np.ndarray], np.ndarray]


def drive(tracks: Sequence[int], driver: Callable[[], Act]) -> list[float]:
    """The real score on each track, CARS tracks at a time, each batch with a new driver."""
    scores: list[float] = []
    for first in range(0, len(tracks), CARS):
        batch, act = tracks[first : first + CARS], driver()
        episodes = [rollout(make_environment(), track, MAX_STEPS, {}) for track in batch]
        frames = np.stack([next(episode) for episode in episodes])
        found: dict[int, float] = {}
        while len(found) < len(batch):
            actions = act(frames)
            for car in set(range(len(batch))) - set(found):
                try:
                    frames[car] = episodes[car].send(actions[car])
                except StopIteration as end:
                    found[car] = end.value.score
        scores += [found[car] for car in range(len(batch))]
    return scores


@dataclass
class Training:
    """A training with PPO that is evaluated as it goes, and may be killed at any moment.

    `folder` holds the newest state, state.pkl, and a record for each evaluation, scores.jsonl.
    Saving and evaluating is not counted as training.
    """

    folder: Path
    policy: str
    settings: dict[str, Any]
    make_environments: Callable[[], VecEnv]
    make_driver: Callable[[PPO], Act]
    frames_per_step: int  # real frames of one step of PPO
    steps: int  # of PPO, at most
    tracks: Sequence[int]
    minutes: float  # to train, in all sessions
    every: float  # minutes between evaluations
    seconds: float = 0.0  # trained, in all sessions
    resumed: float = 0.0  # when the clock was started last
    saved: float = 0.0  # when the state was saved last
    over: bool = False

    def run(self) -> None:
        """Train from the newest state on, until `minutes` or `steps` are reached."""
        if self.due() is None:
            return
        model = self.load()
        self.resumed = self.saved = time.monotonic()
        model.learn(self.steps - model.num_timesteps, Pause(self.pause), reset_num_timesteps=False)
        if not self.over:  # all steps are done
            self.pause(model)
        envs = model.get_env()
        assert envs is not None
        envs.close()

    def due(self) -> float | None:
        """The minute of the next evaluation; None after the last."""
        records = read_records(self.folder / "scores.jsonl")
        last = records[-1]["seconds"] / 60 if records else 0.0
        if last >= self.minutes or (records and records[-1]["final"]):
            return None
        return min(self.minutes, self.every * (last // self.every + 1))

    def pause(self, model: PPO) -> bool:
        """Between two updates: stop the clock, save, evaluate. Returns whether to go on."""
        self.seconds += time.monotonic() - self.resumed
        due, final = self.due(), model.num_timesteps >= self.steps
        if due is not None and (final or self.seconds >= 60 * due):
            self.save(model)
            frames = model.num_timesteps * self.frames_per_step
            scores = drive(self.tracks, lambda: self.make_driver(model))
            record = {"seconds": self.seconds, "frames": frames, "final": final, "scores": scores}
            append_record(self.folder / "scores.jsonl", record)
            print(
                f"{self.seconds / 60:.1f} min, {frames} frames: {np.mean(scores):.0f}", flush=True
            )
        elif time.monotonic() > self.saved + SAVE_SECONDS:
            self.save(model)
        self.over = self.due() is None
        self.resumed = time.monotonic()
        return not self.over

    def load(self) -> PPO:
        """The model of the newest state, or a new one. Its environments begin new episodes."""
        envs, path = self.make_environments(), self.folder / "state.pkl"
        if not path.exists():
            return PPO(self.policy, envs, **self.settings, seed=SEED, device="cpu")
        state = pickle.loads(path.read_bytes())
        self.seconds = state["seconds"]
        model = PPO.load(io.BytesIO(state["model"]), envs, device="cpu")
        normalize = model.get_vec_normalize_env()
        assert normalize is not None
        normalize.ret_rms = state["returns"]
        return model

    def save(self, model: PPO) -> None:
        """Write the model, the statistics of the returns and the time so far, atomically."""
        buffer, normalize = io.BytesIO(), model.get_vec_normalize_env()
        assert normalize is not None
        model.save(buffer)
        state = {
            "seconds": self.seconds,
            "model": buffer.getvalue(),
            "returns": normalize.ret_rms,
        }
        write_atomically(self.folder / "state.pkl", lambda file: pickle.dump(state, file))
        self.saved = time.monotonic()


class Pause(BaseCallback):
    """Calls `pause` between two updates, and ends the training when that returns False."""

    def __init__(self, pause: Callable[[PPO], bool]):
        super().__init__()
        self.pause, self.go_on = pause, True

    def _on_rollout_start(self) -> None:
        assert isinstance(self.model, PPO)
        self.go_on = self.pause(self.model)

    def _on_step(self) -> bool:
        return self.go_on
