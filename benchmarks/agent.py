"""Driving: real steps a second with V, M and C in the loop, and what each part costs.

    python -m benchmarks.agent --one-core
    python -m benchmarks.agent --steps 500

A process drives CARS_PER_BATCH cars side by side through one fixed, padded batch. Environments
are ours (benchmarks/environment.py compares them). The floor counts the multiplications of V's
encoder, M and C. The workers are kept: they start and compile in a turn that does not count.
"""

import tempfile
from pathlib import Path

import jax
import numpy as np

from benchmarks import encoding, measuring
from benchmarks.dream import products_of_a_step
from benchmarks.measuring import Ceilings, Measurement, Work
from models.controller import Controller
from models.rnn import MDNRNN
from models.vae import ConvVAE
from utils.cpus import default_workers
from utils.io.checkpoints import Header, save
from utils.io.files import sha256_of
from utils.io.run_folder import AgentFiles
from utils.sim.agent import Agent
from utils.sim.env import make_environment, resize_frame
from utils.sim.rollouts import drive_all, run_batch
from utils.sim.tasks import CARS_PER_BATCH, DriveBatch, DriveTask
from utils.sim.workers import kept_workers

STARTED = 60  # steps before the clock: the zoom phase is not normal driving


def save_agent(folder: Path) -> AgentFiles:
    """An untrained agent of the real sizes, that drives gently."""
    files, begun = AgentFiles.of_run(folder), {"step": 1, "first": 0, "continued_from": ""}
    save(files.vae, Header("vae", {"latent": 32}, {}, {}, begun), ConvVAE(key=jax.random.key(0)))
    inputs, rnn = {"vae": sha256_of(files.vae)}, MDNRNN(key=jax.random.key(1))
    sizes = {"latent": rnn.latent, "hidden": rnn.hidden, "components": rnn.components}
    save(files.rnn, Header("rnn", sizes, {}, inputs, begun), rnn)
    inputs |= {"rnn": sha256_of(files.rnn)}
    features = rnn.latent + rnn.hidden
    header = Header("controller", {"features": features}, {}, inputs, begun)
    save(files.controller, header, Controller(features))
    return files


class Cars:
    """CARS_PER_BATCH moving environments, each given the same quiet actions again and again."""

    def __init__(self) -> None:
        self.environments = [make_environment() for _ in range(CARS_PER_BATCH)]
        self.action = np.array([0.0, 0.15, 0.0], np.float32)
        self.steps = 0
        self.restart()

    def restart(self) -> None:
        """To the same place of the same tracks."""
        for track, environment in enumerate(self.environments):
            environment.reset(seed=track)
        self.steps = 0
        while self.steps < STARTED:
            self.step()

    def step(self) -> None:
        """One step of every car, its frame made small."""
        for environment in self.environments:
            resize_frame(environment.step(self.action)[0])
        self.steps += 1

    def drive(self, steps: int) -> None:
        """So many steps on; from the start again after a while."""
        for _ in range(steps):
            self.step()
        if self.steps > 400:
            self.restart()


def drives(files: AgentFiles, tracks: int, steps: int) -> list[DriveTask]:
    """Episodes of one length on neighbouring tracks: CARS_PER_BATCH of them fill a batch."""
    return [DriveTask(track, "on-policy", steps, agent=files) for track in range(tracks)]


def workers(files: AgentFiles, steps: int) -> Work:
    """All cores: a full batch of cars a process, twice."""
    count = default_workers()
    tasks = drives(files, 2 * CARS_PER_BATCH * count, steps)
    return lambda: list(drive_all(tasks, count))


def main() -> None:
    """Measure and print."""
    arguments = measuring.parse(__doc__, steps=300)
    steps = arguments.steps
    with tempfile.TemporaryDirectory() as folder, kept_workers():
        files = save_agent(Path(folder))
        agent, cars = Agent.load(files), Cars()
        frames = np.random.default_rng(0).integers(0, 256, (CARS_PER_BATCH, 64, 64, 3), np.uint8)
        noise = np.zeros((CARS_PER_BATCH, 3), np.float32)
        together, one = (DriveBatch(tuple(drives(files, n, steps))) for n in (CARS_PER_BATCH, 1))
        contestants: dict[str, Work] = {
            f"{CARS_PER_BATCH} cars, their tracks made": lambda: run_batch(together),
            "1 car, the other lanes empty": lambda: run_batch(one),
            f"  {CARS_PER_BATCH} cars without an agent": lambda: cars.drive(50),
            "  agent alone": lambda: [agent.act_batch(frames, noise) for _ in range(50)],
        }
        amounts = dict(
            zip(
                contestants,
                (CARS_PER_BATCH * steps, steps, CARS_PER_BATCH * 50, CARS_PER_BATCH * 50),
                strict=True,
            )
        )
        if not arguments.one_core:  # processor time of others is not ours
            name = f"{default_workers()} workers, {CARS_PER_BATCH} cars each"
            contestants[name] = workers(files, steps)
            amounts[name] = 2 * CARS_PER_BATCH * default_workers() * steps
        seconds = measuring.take_turns({**measuring.ceilings(), **contestants}, arguments)
    operations = 2 * (encoding.products_of_a_frame(agent.vae) + products_of_a_step(agent.rnn))
    rows = [
        Measurement(
            name,
            seconds[name],
            amount,
            "steps",
            0 if "without" in name else amount * operations,
        )
        for name, amount in amounts.items()
    ]
    measuring.report("Driving", rows, Ceilings.of(seconds), arguments)
    with measuring.profile("50 steps of the agent"):
        contestants["  agent alone"]()


if __name__ == "__main__":
    main()
