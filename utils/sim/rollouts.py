"""Real drives as tasks for worker processes: one track, one driver, one episode."""

import collections
import dataclasses
import functools
import importlib.metadata
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from utils.data.episodes import FRAME_SHAPE, Episode, write_episode
from utils.data.splits import AGENT_MODES, MODES
from utils.io.run_folder import AgentFiles
from utils.sim.env import Driver, drive_episode, make_environment, rollout
from utils.sim.policies import DrivingStyle, OUNoise, RandomDriver, ScriptedDriver, sample_style
from utils.sim.workers import run_tasks


@dataclasses.dataclass(frozen=True)
class DriveTask:
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
class DriveResult:
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
        self.noise = OUNoise(rng, scale, rate=0.1, size=3)

    def reset(self, environment: Any) -> None:
        """Forget the last episode."""
        self.agent.reset(environment)

    def act(self, frame: np.ndarray) -> np.ndarray:
        """Frame uint8 (64, 64, 3) -> action float32 (3), the agent's with noise."""
        return self.agent.act(frame, self.noise.sample())


@functools.lru_cache(maxsize=2)
def _load_agent(files: AgentFiles) -> Any:
    from utils.sim.agent import Agent  # here: drivers without a model start without JAX

    return Agent.load(files)


def make_driver(task: DriveTask) -> Driver:
    """The driver of a task, with its own random generator for this mode, seed and track."""
    names = (*MODES, "scripted")
    rng = np.random.default_rng([task.seed, names.index(task.driver), task.track])
    if task.driver == "random":
        return RandomDriver(rng)
    if task.driver == "scripted":
        return ScriptedDriver(DrivingStyle(), rng)
    if task.driver not in AGENT_MODES:
        return ScriptedDriver(sample_style(task.driver, rng), rng)
    assert task.agent is not None
    exploration = task.exploration if task.driver == "iterative" else 0.0
    return ExploringDriver(_load_agent(task.agent), exploration, rng)


def drive_all(
    tasks: Sequence[DriveTask], workers: int, cluster: str | None = None
) -> Iterator[tuple[DriveTask, DriveResult]]:
    """Drive every task in worker processes, here or on a Dask cluster; yields them as they end."""
    if cluster is not None:  # its workers have folders of their own
        tasks = [with_absolute_paths(task) for task in tasks]
    groups = batch_tasks(tasks, workers)
    done = run_tasks(run_batch, groups, max(1, min(workers, len(groups))), cluster=cluster)
    for group, outcomes in done:
        yield from zip(group.tasks, outcomes, strict=True)


def with_absolute_paths(task: DriveTask) -> DriveTask:
    """The task with paths that do not depend on the folder that a process is in."""
    files = task.agent and AgentFiles(
        *(Path(path).resolve() for path in dataclasses.astuple(task.agent))
    )
    return dataclasses.replace(task, agent=files, output=task.output and task.output.resolve())


@dataclasses.dataclass(frozen=True)
class DriveBatch:
    """Drives that one process does side by side: of one agent, each in another lane."""

    tasks: tuple[DriveTask, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.tasks))


def slot_of(task: DriveTask) -> int:
    """The lane that the task's track has, always."""
    from utils.sim.agent import CARS_PER_BATCH

    return task.track % CARS_PER_BATCH


def batch_tasks(tasks: Sequence[DriveTask], workers: int) -> list[DriveBatch]:
    """Agents drive in full lanes where there are more tasks than workers; scripts drive alone."""
    if len(tasks) <= workers or tasks[0].driver not in AGENT_MODES:
        return [DriveBatch((task,)) for task in tasks]
    lanes = collections.defaultdict(list)
    for task in tasks:
        lanes[slot_of(task)].append(task)
    rows = itertools.zip_longest(*lanes.values())
    return [DriveBatch(tuple(task for task in row if task is not None)) for row in rows]


WrapEnvironment = Callable[[DriveTask, gymnasium.Env], gymnasium.Env]


def no_wrapper(task: DriveTask, environment: gymnasium.Env) -> gymnasium.Env:
    """The environment that a task drives in, with nothing around it."""
    return environment


def run_batch(group: DriveBatch) -> list[DriveResult]:
    """Drive the episodes of a group and write the files that are asked for; outcomes in order."""
    outcomes = {task.track: save_result(task, episode) for task, episode in drive_batch(group)}
    return [outcomes[task.track] for task in group.tasks]


def drive_batch(
    group: DriveBatch, prepare: WrapEnvironment = no_wrapper
) -> Iterator[tuple[DriveTask, Episode]]:
    """Drive the episodes of a group; yields them as they end.

    `prepare` may put a wrapper around a task's environment, to watch it or to disturb it.
    """
    with_agent = group.tasks[0].driver in AGENT_MODES
    return (drive_side_by_side if with_agent else drive_in_turn)(group.tasks, prepare)


def save_result(task: DriveTask, episode: Episode) -> DriveResult:
    """Write the episode's file if one is asked for; what is kept besides."""
    if task.output is not None:
        write_episode(task.output, episode)
    return DriveResult(
        track=task.track,
        score=episode.score,
        steps=len(episode.rewards),
        lap_finished=episode.lap_finished,
        left_playfield=bool(episode.terminated[-1] and not episode.lap_finished),
    )


# A fresh environment for every episode: its bytes never depend on what was driven before.


def drive_in_turn(
    tasks: Sequence[DriveTask], prepare: WrapEnvironment
) -> Iterator[tuple[DriveTask, Episode]]:
    """Drive the tasks one after another."""
    for task in tasks:
        environment = prepare(task, make_environment(task.environment))
        driver = make_driver(task)
        yield task, drive_episode(environment, driver, task.track, task.max_steps, task.provenance)
        environment.close()


def drive_side_by_side(
    tasks: Sequence[DriveTask], prepare: WrapEnvironment
) -> Iterator[tuple[DriveTask, Episode]]:
    """Drive the tasks of one agent side by side, each in its lane; yields them as they end."""
    from utils.sim.agent import CARS_PER_BATCH

    cars = {slot_of(task): task for task in tasks}
    drivers = {lane: make_driver(task) for lane, task in cars.items()}
    environments = {
        lane: prepare(task, make_environment(task.environment)) for lane, task in cars.items()
    }
    steps = {
        lane: rollout(environments[lane], task.track, task.max_steps, task.provenance)
        for lane, task in cars.items()
    }
    agent = _load_agent(tasks[0].agent)
    agent.reset()
    frames, noise = (
        np.zeros((CARS_PER_BATCH, *FRAME_SHAPE), np.uint8),
        np.zeros((CARS_PER_BATCH, 3), np.float32),
    )
    for lane in cars:
        frames[lane] = next(steps[lane])
    while steps:
        for lane in steps:
            noise[lane] = drivers[lane].noise.sample()
        actions = agent.act_batch(frames, noise)
        for lane in list(steps):
            try:
                frames[lane] = steps[lane].send(actions[lane])
            except StopIteration as end:
                del steps[lane]
                environments[lane].close()
                yield cars[lane], end.value


def package_versions(*extra: str) -> dict[str, str]:
    """Versions of what decides an episode's bytes, and of the `extra` distributions."""
    names = ("gymnasium", "box2d", "pygame-ce", "numpy", *extra)
    return {name: importlib.metadata.version(name) for name in names}
