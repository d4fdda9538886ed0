"""Ablations: remove one component of a run's agent and retrain only what depends on it.

    python -m tools.ablate --without nothing            # control: evolve C again, nothing changed
    python -m tools.ablate --without memory             # C sees z alone
    python -m tools.ablate --without trained-memory     # C sees z and the h of a random LSTM
    python -m tools.ablate --without real-validation    # select among means in dreams alone
    python -m tools.ablate --without asymmetric-loss    # M learns rewards with the squared error
    python -m tools.ablate --without second-model       # C evolves in the dream of its own M

Reads the agent of --run-dir and data/latents/. Writes an agent to <run-dir>/ablations/<without>/,
a run folder that can be scored with test_agent.py --run-dir. C is evolved from zero with the
settings of the run, but for --searches and --generations. If M is retrained, it takes as many steps
as the run's M in all rounds, with its other settings. Rerun the same command to resume after an
interruption.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import train_dream
import train_rnn
from models.layers.lstm import LSTMCell
from models.rnn import MDNRNN
from utils import runtime
from utils.errors import UserError
from utils.io import checkpoints
from utils.io.checkpoints import read_header
from utils.io.files import locked, write_atomically
from utils.io.run_folder import AgentFiles, find_agent
from utils.settings import DrivingSettings, parse, restore_settings, setting
from utils.sim.agent import Agent

WITHOUT = (
    *("nothing", "memory", "trained-memory", "real-validation", "asymmetric-loss"),
    "second-model",
)


@dataclass(frozen=True)
class Settings(DrivingSettings):
    """The flags of this script."""

    without: str = setting("nothing", "component to remove", choices=WITHOUT)
    searches: int = setting(0, "searches of C; 0: as many as the run began with", minimum=0)
    generations: int = setting(0, "generations of a search; 0: as many as in the run", minimum=0)


def main(settings: Settings) -> None:
    """Make the run folder of the ablation and retrain in it."""
    agent = find_agent(settings.run_dir, "tools.ablate")
    Agent.load(agent)  # raises UserError if the parts do not belong together
    ablated = AgentFiles.of_run(settings.run_dir / "ablations" / settings.without)
    folders = {"data_dir": settings.data_dir, "run_dir": ablated.vae.parent, "seed": settings.seed}
    header, rnn = checkpoints.load_rnn(agent.rnn)
    recorded = read_header(agent.controller).settings
    evolution = restore_settings(recorded, train_dream.Settings, agent.controller)
    if settings.without == "second-model" or "dream_rnn" not in recorded:
        evolution["dream_rnn"] = False
    with locked(ablated.vae.parent):  # the scripts lock it themselves
        copy(agent.vae, ablated.vae)
        if settings.without == "trained-memory":
            rnn = prepend_random_units(rnn, jax.random.key(settings.seed))
            wider = dataclasses.replace(header, sizes=train_rnn.sizes_of(rnn))
            checkpoints.save(ablated.rnn, wider, rnn)
        elif settings.without != "asymmetric-loss":
            copy(agent.rnn, ablated.rnn)
        if evolution["dream_rnn"] and settings.without != "asymmetric-loss":
            copy(*(files.rnn.with_name("dream_rnn.eqx") for files in (agent, ablated)))
    if settings.without == "asymmetric-loss":
        learning = restore_settings(header.settings, train_rnn.Settings, agent.rnn, header.sizes)
        learning |= {"steps": header.progress["step"], "optimism_penalty": 1.0}
        learning["dream_rnn"] = evolution["dream_rnn"]
        train_rnn.main(train_rnn.Settings(**{**learning, **folders}))
    evolution["record"] = False  # an ablated agent's drives are no data for the run's next round
    if settings.without in ("memory", "trained-memory"):
        evolution["masked_units"] = header.sizes["hidden"]
    if settings.without == "real-validation":
        evolution["real_validation"] = False
    given = {"searches": settings.searches, "generations": settings.generations}
    evolution |= {name: number for name, number in given.items() if number}
    evolution |= {**folders, "workers": settings.workers, "dask": settings.dask}
    train_dream.main(train_dream.Settings(**evolution))


def copy(source: Path, target: Path) -> None:
    """Copy a model file, atomically."""
    write_atomically(target, lambda file: file.write(source.read_bytes()))


def prepend_random_units(rnn: MDNRNN, key: PRNGKeyArray) -> MDNRNN:
    """`rnn` with as many random LSTM units in front of its own.

    The two groups of units are not connected, and the heads read only the units of `rnn`: the
    predictions stay the same.
    """
    if not isinstance(rnn.cell, LSTMCell):
        kind = type(rnn.cell).__name__
        raise UserError(f"--without trained-memory knows only the LSTM, not {kind}")
    random = MDNRNN(rnn.latent, rnn.hidden, rnn.components, key=key)

    def gates(first: Float[Array, "inputs gates"], last: Float[Array, "inputs gates"]) -> Array:
        """For each gate, the columns of `first` followed by those of `last`."""
        pairs = zip(jnp.split(first, 4, -1), jnp.split(last, 4, -1), strict=True)
        return jnp.concatenate([part for pair in pairs for part in pair], axis=-1)

    unconnected = jnp.zeros_like(rnn.cell.weight_hh)
    weights = (
        gates(random.cell.weight_ih, rnn.cell.weight_ih),
        gates(random.cell.bias, rnn.cell.bias),
        jnp.concatenate(
            [gates(random.cell.weight_hh, unconnected), gates(unconnected, rnn.cell.weight_hh)]
        ),
        jnp.concatenate([jnp.zeros_like(rnn.heads.weight), rnn.heads.weight]),
    )
    return eqx.tree_at(
        lambda r: (r.cell.weight_ih, r.cell.bias, r.cell.weight_hh, r.heads.weight),
        rnn,
        weights,
    )


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, {}))
