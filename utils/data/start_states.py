"""Where dreams begin: moments of real episodes, with the memory that a driver has there."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.dream import DreamState
from models.evaluation import states_before
from models.rnn import MDNRNN, LSTMState
from utils.data.episodes import ZOOM_STEPS, EpisodeFile
from utils.data.sequences import LatentEpisode, read_latent_episode
from utils.data.splits import AGENT_MODES
from utils.io import checkpoints
from utils.io.checkpoints import Header

MAX_EPISODES, STATES_PER_EPISODE = 192, 24  # read for the bank, and moments taken from each


class StartStates(NamedTuple):
    """Moments to begin from, in three groups: (moments, latent) and (moments, hidden)."""

    resets: DreamState  # first frames, with an empty memory
    on_policy: DreamState  # moments of the agent's own drives; the others' if there are none
    others: DreamState

    def sample(
        self, key: PRNGKeyArray, dreams: int, reset_share: float, on_policy_share: float
    ) -> DreamState:
        """A batch of starts, in fixed shares of the groups, drawn at random inside each."""
        resets = round(dreams * reset_share)
        on_policy = round((dreams - resets) * on_policy_share)
        counts = (resets, on_policy, dreams - resets - on_policy)
        keys = jax.random.split(key, 3)
        parts = [_pick(k, group, n) for k, group, n in zip(keys, self, counts, strict=True)]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    def sample_one(
        self, key: PRNGKeyArray, reset_share: float, on_policy_share: float
    ) -> DreamState:
        """One start, for dreams that begin one by one: the shares are the groups' chances."""
        luck_key, *keys = jax.random.split(key, 4)
        luck = jax.random.uniform(luck_key)
        bounds = jnp.array([reset_share, reset_share + (1 - reset_share) * on_policy_share])
        group = (luck >= bounds).sum()
        parts = [_pick(k, part, 1) for k, part in zip(keys, self, strict=True)]
        return jax.tree.map(lambda *x: jnp.concatenate(x)[group], *parts)

    def features(self) -> Float[Array, "moments features"]:
        """[z, h] at all moments, what the controller gets to see."""
        groups = (self.on_policy, self.others)
        return jnp.concatenate(
            [jnp.concatenate([group.z, group.memory.hidden], -1) for group in groups]
        )


def _pick(key: PRNGKeyArray, group: DreamState, count: int) -> DreamState:
    chosen = jax.random.randint(key, (count,), 0, group.z.shape[0])
    return jax.tree.map(lambda x: x[chosen], group)


@eqx.filter_jit
def dream_states_at(
    rnn: MDNRNN, z: Float[Array, "time latent"], actions: Array, rows: Int[Array, " moments"]
) -> DreamState:
    """Where a driver stands at these rows of an episode: leaves (moments, ...)."""
    states = states_before(rnn, z, actions)
    return DreamState(z[rows], LSTMState(states.hidden[rows], states.cell[rows]))


def build_start_states(entries: Sequence[EpisodeFile], rnn: MDNRNN, seed: int) -> StartStates:
    """Take moments from up to EPISODES episodes, half of them the agent's own where it drove.

    The newest of its drives are taken first: they are the ones nearest to the present agent.
    """
    rng = np.random.default_rng([seed, len(entries)])
    own = [entry for entry in entries if entry.mode in AGENT_MODES]
    others = [entry for entry in entries if entry.mode not in AGENT_MODES]
    own = sorted(own, key=lambda entry: entry.seed)[-MAX_EPISODES // 2 :]
    others = [others[i] for i in rng.permutation(len(others))[: MAX_EPISODES - len(own)]]
    longest = max(entry.steps for entry in own + others)
    resets, groups = [], []
    for part in (own or others, others or own):
        states = []
        for entry in part:
            episode = read_latent_episode(entry, rnn.latent, smoothing=1)
            resets.append(episode.mu[0])
            states.append(_sample_moments(rnn, episode, longest, rng))
        groups.append(jax.tree.map(lambda *x: jnp.concatenate(x), *states))
    first = jnp.stack(resets)
    empty = jax.tree.map(lambda s: jnp.zeros((len(resets), *s.shape)), rnn.initial_state())
    return StartStates(DreamState(first, empty), *groups)


def _sample_moments(
    rnn: MDNRNN, episode: LatentEpisode, longest: int, rng: np.random.Generator
) -> DreamState:
    steps = len(episode.actions)
    # A drive that is lost already has nothing to teach; only if all of it is, it must serve.
    alive = np.flatnonzero(~episode.failed[ZOOM_STEPS:]) + ZOOM_STEPS
    rows = rng.choice(alive if len(alive) else np.arange(steps), STATES_PER_EPISODE)
    # Padded to one length: one compilation. What comes after the rows does not matter to them.
    z, actions = (
        np.pad(array[:steps], ((0, longest - steps), (0, 0)))
        for array in (episode.mu, episode.actions)
    )
    return dream_states_at(rnn, jnp.asarray(z), jnp.asarray(actions), jnp.asarray(rows))


def save_start_states(
    path: Path, start_states: StartStates, inputs: dict[str, str], precision: str = "float32"
) -> None:
    """Write start states, atomically; `inputs` are the sha256 of what they were made from."""
    latent, hidden = (
        x.shape[-1] for x in (start_states.others.z, start_states.others.memory.hidden)
    )
    moments = {name: group.z.shape[0] for name, group in start_states._asdict().items()}
    sizes = {"latent": latent, "hidden": hidden, **moments}
    checkpoints.save(path, Header("dream starts", sizes, {}, inputs, {}, precision), start_states)


def load_start_states(path: Path) -> tuple[Header, StartStates]:
    """A bank and its header. Raises UserError, as every checkpoint."""

    def build(header: Header) -> StartStates:
        latent, hidden = header.sizes["latent"], header.sizes["hidden"]

        def group(name: str) -> DreamState:
            moments = header.sizes[name]
            memory = LSTMState(*jnp.zeros((2, moments, hidden)))
            return DreamState(jnp.zeros((moments, latent)), memory)

        return StartStates(*map(group, StartStates._fields))

    return checkpoints.load(path, "dream starts", build)
