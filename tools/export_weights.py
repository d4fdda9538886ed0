"""Export an agent in half precision, small enough to commit.

    python -m tools.export_weights --run-dir runs/default                      # to pretrained/
    python -m tools.export_weights --run-dir runs/default --output-dir exported
    python -m tools.export_weights --run-dir pretrained --data-dir data        # starts.eqx alone

Reads vae.eqx, rnn.eqx, controller.eqx and starts.eqx of --run-dir. Writes float16 copies to
--output-dir, where starts.eqx keeps only a sample of the states that dreams start from. A run
without starts.eqx gets one from data/latents/. If --output-dir is --run-dir itself, its models stay
as they are.

The copies form a run folder that every script accepts as --run-dir. Rounding the weights changes
how the agent drives a little, so evaluate the copy, not the original.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from models.dream import DreamState
from utils import runtime
from utils.data.episodes import dataset_fingerprint, find_latents
from utils.data.start_states import (
    StartStates,
    build_start_states,
    load_start_states,
    save_start_states,
)
from utils.io import checkpoints
from utils.io.files import locked, sha256_of
from utils.io.run_folder import AgentFiles, check_compatible, find_agent
from utils.settings import ReaderSettings, parse, setting
from utils.sim.agent import Agent

LOADERS = {
    "vae": checkpoints.load_vae,
    "rnn": checkpoints.load_rnn,
    "controller": checkpoints.load_controller,
}


@dataclass(frozen=True)
class Settings(ReaderSettings):
    """The flags of this script."""

    output_dir: Path = setting(Path("pretrained"), "folder of the copies")
    states: int = setting(
        320, "start states kept of each group (first frames, own drives, others); 1.1 kB each",
        minimum=1,
    )  # fmt: skip


def main(settings: Settings) -> None:
    """Export the agent of a run, and the states its dreams start from."""
    files = find_agent(settings.run_dir, "tools.export_weights")
    agent = Agent.load(files)  # raises UserError if the parts do not belong together
    starts = start_states_of(settings, files, agent)
    copies = AgentFiles.of_run(settings.output_dir)
    with locked(settings.output_dir):
        if settings.output_dir.resolve() != settings.run_dir.resolve():
            export_models(files, copies)
        if starts is not None:
            data, states = starts
            sha256 = copies.sha256()
            inputs = {"data": data, "vae": sha256["vae"], "rnn": sha256["rnn"]}
            path = settings.output_dir / "starts.eqx"
            save_start_states(path, thin(states, settings.states), inputs, precision="float16")
            announce(path)


def export_models(files: AgentFiles, copies: AgentFiles) -> None:
    """Write V, M and C in float16; each header names the sha256 of the copies it belongs to."""
    inputs: dict[str, str] = {}
    for part, load in LOADERS.items():
        header, model = load(getattr(files, part))
        header = dataclasses.replace(
            header, precision="float16", inputs={**header.inputs, **inputs}
        )
        copy = getattr(copies, part)
        checkpoints.save(copy, header, model)
        inputs[part] = sha256_of(copy)
        announce(copy)


def start_states_of(
    settings: Settings, files: AgentFiles, agent: Agent
) -> tuple[str, StartStates] | None:
    """The run's start states, or new ones from data/latents/, and the sha256 of their data.

    None if the run has no starts.eqx and there are no latents.
    """
    path = files.rnn.with_name("starts.eqx")
    if path.exists():
        header, states = load_start_states(path, agent.rnn)
        check_compatible(path, header.inputs, "rnn", files.rnn)
        return header.inputs["data"], states
    if not (settings.data_dir / "latents").exists():
        print(f"no {path} and no {settings.data_dir / 'latents'}: starts.eqx is not exported")
        return None
    entries = find_latents(settings.data_dir, agent.rnn.latent, sha256_of(files.vae))
    training = [entry for entry in entries if not entry.held_out]
    return dataset_fingerprint(entries), build_start_states(training, agent.rnn, settings.seed)


def thin(states: StartStates, most: int) -> StartStates:
    """At most `most` states of each group, evenly spaced over the group."""

    def thinned(group: DreamState) -> DreamState:
        count = len(group.z)
        rows = np.linspace(0, count - 1, min(most, count)).round().astype(int)
        return jax.tree.map(lambda leaf: leaf[rows], group)

    return StartStates(*map(thinned, states))


def announce(path: Path) -> None:
    """Print a file's size and sha256."""
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, sha256 {sha256_of(path)}")


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, {}))
