"""What a worker process drives: one episode, or the episodes of one agent as a batch."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.data.splits import AGENT_MODES
from utils.io.run_folder import AgentFiles

# Cars that one process drives at a time with one agent, which halves the time V takes for each.
# The batch always has this size, padded where fewer cars drive, and a track always has the same
# slot in it. So the bytes of an episode do not depend on the episodes driven beside it.
CARS_PER_BATCH = 2
LOST_BELOW = 700.0  # points; a drive that stays on the road scores more


@dataclasses.dataclass(frozen=True)
class DriveTask:
    """One episode to drive."""

    track: int  # seed of the track
    driver: str  # a collection mode, or "scripted" for the scripted driver without noise
    max_steps: int
    environment: str = "fast"  # a key of ENVIRONMENTS
    seed: int = 0  # of the driver's noise, together with driver and track
    exploration: float = 0.0  # standard deviation of the noise that mode "iterative" adds
    agent: AgentFiles | None = None  # for the modes that drive with an agent
    output: Path | None = None  # episode file to write
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.driver} episode on track {self.track}"


@dataclasses.dataclass(frozen=True)
class DriveResult:
    """Summary of a driven episode."""

    track: int
    score: float  # sum of rewards
    steps: int
    lap_finished: bool
    left_playfield: bool

    @property
    def lost(self) -> bool:
        """Whether the car left the road and did not return in time to score."""
        return not self.lap_finished and self.score < LOST_BELOW


@dataclasses.dataclass(frozen=True)
class DriveBatch:
    """Episodes that one process drives together: of one agent, each in a slot of its own."""

    tasks: tuple[DriveTask, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.tasks))


def slot_of(task: DriveTask) -> int:
    """The slot of the task's track in a batch of cars."""
    return task.track % CARS_PER_BATCH


def batch_tasks(tasks: Sequence[DriveTask], workers: int | str) -> list[DriveBatch]:
    """Group tasks into batches.

    An agent drives full batches on a cluster, and here if there are more tasks than `workers`. A
    scripted driver, which gains nothing from a batch, drives each episode alone.
    """
    if isinstance(workers, str):  # its processes run in other folders
        tasks, workers = [with_absolute_paths(task) for task in tasks], 0
    if len(tasks) <= workers or tasks[0].driver not in AGENT_MODES:
        return [DriveBatch((task,)) for task in tasks]
    by_agent: dict = collections.defaultdict(lambda: collections.defaultdict(list))
    for task in tasks:
        by_agent[task.agent][slot_of(task)].append(task)
    rows = [row for slots in by_agent.values() for row in itertools.zip_longest(*slots.values())]
    return [DriveBatch(tuple(task for task in row if task is not None)) for row in rows]


def with_absolute_paths(task: DriveTask) -> DriveTask:
    """The task for a process that runs in another working directory."""
    agent = task.agent and AgentFiles(
        *(Path(path).resolve() for path in dataclasses.astuple(task.agent))
    )
    return dataclasses.replace(task, agent=agent, output=task.output and task.output.resolve())
