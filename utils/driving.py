"""Real drives as tasks for worker processes: one track, one driver, one episode."""

import dataclasses
import functools
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

from utils.commandline import Failure
from utils.drivers import Noise, RandomDriver, ScriptedDriver, Style, clip_action, sample_style
from utils.environment import Driver, drive, make_environment
from utils.episodes import write_episode
from utils.files import sha256_of
from utils.tracks import MODES

AGENT_MODES = ("iterative", "on-policy")


@dataclasses.dataclass(frozen=True)
class AgentFiles:
    """Where an agent's three parts lie."""

    vae: Path
    rnn: Path
    controller: Path

    @classmethod
    def of_run(cls, run_dir: Path) -> "AgentFiles":
        """The agent of a run folder."""
        return cls(run_dir / "vae.eqx", run_dir / "rnn.eqx", run_dir / "controller.eqx")

    def sha256(self) -> dict[str, str]:
        """The sha256 of each part: the agent's name in every lineage."""
        return {part: sha256_of(path) for part, path in dataclasses.asdict(self).items()}


def find_agent(run_dir: Path, purpose: str) -> AgentFiles:
    """The agent of a run folder; Failure names the step that is missing."""
    agent = AgentFiles.of_run(run_dir)
    steps = {"vae": "run_vae_training.py", "rnn": "train_rnn.py", "controller": "train_dream.py"}
    for part, script in steps.items():
        path = getattr(agent, part)
        if not path.exists():
            raise Failure(f"{purpose} needs an agent, but {path} is missing: run {script}")
    return agent


@dataclasses.dataclass(frozen=True)
class Drive:
    """One episode to be driven. `driver` is a collection mode or "scripted", the yardstick."""

    track: int
    driver: str
    max_steps: int
    environment: str = "fast"
    seed: int = 0  # of the driver's noise, together with mode and track
    exploration: float = 0.0  # standard deviation of the noise on an iterative agent's actions
    agent: AgentFiles | None = None
    output: Path | None = None  # the episode file to write, if any
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.driver} episode on track {self.track}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is kept of a drive besides its file."""

    track: int
    score: float
    steps: int
    lap_finished: bool
    left_playfield: bool


class ExploringDriver:
    """An agent with correlated noise on its actions; the agent's memory sees the noisy ones."""

    def __init__(self, agent: Any, scale: float, rng: np.random.Generator):
        self.agent = agent
        self.noise = Noise(rng, scale, rate=0.1, size=3)

    def reset(self, environment: Any) -> None:
        """Forget the last episode."""
        self.agent.reset(environment)

    def act(self, frame: np.ndarray) -> np.ndarray:
        """Frame uint8 (64, 64, 3) -> action float32 (3), the agent's with noise."""
        action = clip_action(self.agent.decide(frame) + self.noise.sample())
        self.agent.remember(action)
        return action


@functools.lru_cache(maxsize=2)
def _load_agent(files: AgentFiles) -> Any:
    from utils.agent import Agent  # here: drivers without a model start without JAX

    return Agent.load(files)


def make_driver(task: Drive) -> Driver:
    """The driver of a task, with its own random generator for this mode, seed and track."""
    names = (*MODES, "scripted")
    rng = np.random.default_rng([task.seed, names.index(task.driver), task.track])
    if task.driver == "random":
        return RandomDriver(rng)
    if task.driver == "scripted":
        return ScriptedDriver(Style(), rng)
    if task.driver not in AGENT_MODES:
        return ScriptedDriver(sample_style(task.driver, rng), rng)
    assert task.agent is not None
    agent = _load_agent(task.agent)
    return agent if task.driver == "on-policy" else ExploringDriver(agent, task.exploration, rng)


def run_drive(task: Drive) -> Outcome:
    """Drive the episode, write its file if one is asked for, and return the outcome.

    A fresh environment for every episode: its bytes never depend on what was driven before.
    """
    environment = make_environment(task.environment)
    episode = drive(environment, make_driver(task), task.track, task.max_steps, task.provenance)
    environment.close()
    if task.output is not None:
        write_episode(task.output, episode)
    return Outcome(
        track=task.track,
        score=episode.score,
        steps=len(episode.rewards),
        lap_finished=episode.lap_finished,
        left_playfield=bool(episode.terminated[-1] and not episode.lap_finished),
    )


def versions(*extra: str) -> dict[str, str]:
    """Versions of what decides an episode's bytes, and of the `extra` distributions."""
    names = ("gymnasium", "box2d", "pygame-ce", "numpy", *extra)
    return {name: importlib.metadata.version(name) for name in names}
