"""Drive episodes in the real environment, in worker processes."""

import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np

from utils.data.episodes import FRAME_SHAPE, Episode, write_episode
from utils.data.splits import AGENT_MODES, MODES
from utils.io.run_folder import AgentFiles
from utils.sim.env import Driver, drive_episode, make_environment, rollout
from utils.sim.policies import DrivingStyle, OUNoise, RandomDriver, ScriptedDriver, sample_style
from utils.sim.tasks import (
    CARS_PER_BATCH,
    DriveBatch,
    DriveResult,
    DriveTask,
    batch_tasks,
    slot_of,
)
from utils.sim.workers import run_tasks

# Puts a wrapper around a task's environment, to record or to disturb the episode.
WrapEnvironment = Callable[[DriveTask, gymnasium.Env], gymnasium.Env]


class ExploringDriver:
    """An agent with noise on its actions. Its memory gets the noisy actions."""

    def __init__(self, agent: Any, noise: OUNoise):
        self.agent, self.noise = agent, noise

    def reset(self, environment: Any) -> None:
        """Clear the agent's memory."""
        self.agent.reset(environment)

    def act(self, frame: np.ndarray) -> np.ndarray:
        """Frame uint8 (64, 64, 3) -> noisy action float32 (3)."""
        return self.agent.act(frame, self.noise.sample())


def load_agent(files: AgentFiles) -> Any:
    """The agent in these files. A process loads it once, and again when a file has changed."""
    return _load_agent(files, *files.sha256().values())


@functools.lru_cache(maxsize=2)
def _load_agent(files: AgentFiles, *sha256: str) -> Any:
    # Imported here because processes that drive without an agent start faster without JAX.
    from utils.sim.agent import Agent

    return Agent.load(files)


def make_driver(task: DriveTask) -> Driver:
    """The driver of a task."""
    if task.driver in AGENT_MODES:
        assert task.agent is not None
        return ExploringDriver(load_agent(task.agent), exploration_noise(task))
    rng = driver_rng(task)
    if task.driver == "random":
        return RandomDriver(rng)
    if task.driver == "scripted":
        return ScriptedDriver(DrivingStyle(), rng)
    return ScriptedDriver(sample_style(task.driver, rng), rng)


def exploration_noise(task: DriveTask) -> OUNoise:
    """The Ornstein-Uhlenbeck noise on the actions of an agent; zero if it does not explore."""
    exploration = task.exploration if task.driver == "iterative" else 0.0
    return OUNoise(driver_rng(task), exploration, rate=0.1, size=3)


def driver_rng(task: DriveTask) -> np.random.Generator:
    """A random generator seeded by driver, seed and track."""
    names = (*MODES, "scripted")
    return np.random.default_rng([task.seed, names.index(task.driver), task.track])


def drive_all(
    tasks: Sequence[DriveTask], workers: int | str
) -> Iterator[tuple[DriveTask, DriveResult]]:
    """Drive every task in worker processes. Yields (task, result) as the episodes end.

    Args:
        tasks: the episodes. All of them have drivers of the same kind.
        workers: number of processes on this machine, or address of a Dask scheduler.
    """
    batches = batch_tasks(tasks, workers)
    done = run_tasks(run_batch, batches, enough_workers(workers, batches))
    for batch, results in done:
        yield from zip(batch.tasks, results, strict=True)


def enough_workers(workers: int | str, tasks: Sequence[Any]) -> int | str:
    """No more processes on this machine than tasks."""
    return workers if isinstance(workers, str) else max(1, min(workers, len(tasks)))


def run_batch(batch: DriveBatch) -> list[DriveResult]:
    """Drive the episodes of a batch and write their files. Results are in the order of tasks."""
    results = {task.track: save_result(task, episode) for task, episode in drive_batch(batch)}
    return [results[task.track] for task in batch.tasks]


def save_result(task: DriveTask, episode: Episode) -> DriveResult:
    """Write the episode if the task has an output file, and summarise it."""
    if task.output is not None:
        write_episode(task.output, episode)
    return DriveResult(
        track=task.track,
        score=episode.score,
        steps=len(episode.rewards),
        lap_finished=episode.lap_finished,
        left_playfield=bool(episode.terminated[-1] and not episode.lap_finished),
    )


def no_wrapper(task: DriveTask, environment: gymnasium.Env) -> gymnasium.Env:
    """The environment itself."""
    return environment


def drive_batch(
    batch: DriveBatch, wrap: WrapEnvironment = no_wrapper
) -> Iterator[tuple[DriveTask, Episode]]:
    """Drive the episodes of a batch. Yields (task, episode) as they end."""
    with_agent = batch.tasks[0].driver in AGENT_MODES
    return (drive_side_by_side if with_agent else drive_in_turn)(batch.tasks, wrap)


# Every episode gets a new environment, so that its bytes do not depend on earlier episodes.


def drive_in_turn(
    tasks: Sequence[DriveTask], wrap: WrapEnvironment
) -> Iterator[tuple[DriveTask, Episode]]:
    """Drive the tasks one after another."""
    for task in tasks:
        environment = wrap(task, make_environment(task.environment))
        driver = make_driver(task)
        yield task, drive_episode(environment, driver, task.track, task.max_steps, task.provenance)
        environment.close()


def drive_side_by_side(
    tasks: Sequence[DriveTask], wrap: WrapEnvironment
) -> Iterator[tuple[DriveTask, Episode]]:
    """Drive the tasks of one agent at the same time, each in its slot of the agent's batch."""
    cars = {slot_of(task): task for task in tasks}
    noises = {slot: exploration_noise(task) for slot, task in cars.items()}
    environments = {
        slot: wrap(task, make_environment(task.environment)) for slot, task in cars.items()
    }
    episodes = {
        slot: rollout(environments[slot], task.track, task.max_steps, task.provenance)
        for slot, task in cars.items()
    }
    assert tasks[0].agent is not None
    agent = load_agent(tasks[0].agent)
    agent.reset()
    frames = np.zeros((CARS_PER_BATCH, *FRAME_SHAPE), np.uint8)
    noise = np.zeros((CARS_PER_BATCH, 3), np.float32)
    for slot in cars:
        frames[slot] = next(episodes[slot])
    while episodes:
        for slot in episodes:
            noise[slot] = noises[slot].sample()
        actions = agent.act_batch(frames, noise)
        for slot in list(episodes):
            try:
                frames[slot] = episodes[slot].send(actions[slot])
            except StopIteration as end:
                del episodes[slot]
                environments[slot].close()
                yield cars[slot], end.value


def provenance_of(mode: str, settings: dict[str, Any], agent: AgentFiles | None) -> dict[str, Any]:
    """The provenance of an episode: mode, driving settings, agent, environment and packages."""
    return {
        "mode": mode,
        "settings": settings,
        "agent": agent and agent.sha256(),
        "environment": "CarRacing-v3",
        "versions": package_versions(),
    }


def package_versions(*extra: str) -> dict[str, str]:
    """Versions of the packages that decide an episode's bytes, and of the `extra` packages."""
    # Python 3.14 and ARM64 Linux have box2d-py: see fast_car_racing/installation.py.
    box2d = "box2d" if any(importlib.metadata.distributions(name="box2d")) else "box2d-py"
    names = ("gymnasium", box2d, "pygame-ce", "numpy", *extra)
    return {name: importlib.metadata.version(name) for name in names}
