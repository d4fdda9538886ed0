"""Start states of dreams: moments of real episodes, each a latent and M's memory at it."""

import itertools
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
from models.observed import DreamModel
from models.rnn import MDNRNN
from utils.data.episodes import ZOOM_STEPS, EpisodeFile
from utils.data.prefetch import read_ahead
from utils.data.sequences import LatentEpisode, read_latent_episode
from utils.data.splits import AGENT_MODES
from utils.io import checkpoints
from utils.io.checkpoints import Header

MAX_EPISODES, STATES_PER_EPISODE = 192, 24
EPISODES_AT_ONCE = 16  # in a call; a call for each takes longer to start than to compute


class StartStates(NamedTuple):
    """Start states in three groups, each with leaves (states, ...)."""

    resets: DreamState  # first frames of episodes, with M's initial state
    on_policy: DreamState  # from episodes that an agent drove; from the others if there are none
    others: DreamState  # from the other episodes; from the agent's if there are none

    def of_observer(self) -> "StartStates":
        """The states of an `ObservedDream` with the memory of its observer alone."""
        return StartStates(*(DreamState(z, memory.observer) for z, memory in self))

    def sample(
        self, key: PRNGKeyArray, dreams: int, reset_share: float, on_policy_share: float
    ) -> DreamState:
        """A batch of `dreams` states: exact shares of the groups, random within each group.

        Args:
            reset_share: share of `resets`.
            on_policy_share: share of `on_policy` among the rest.
        """
        resets = round(dreams * reset_share)
        on_policy = round((dreams - resets) * on_policy_share)
        counts = (resets, on_policy, dreams - resets - on_policy)
        keys = jax.random.split(key, 3)
        parts = [_pick(k, group, n) for k, group, n in zip(keys, self, counts, strict=True)]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    def sample_one(
        self, key: PRNGKeyArray, reset_share: float, on_policy_share: float
    ) -> DreamState:
        """One state, leaves without a batch axis. The shares are the groups' probabilities."""
        group_key, *keys = jax.random.split(key, 4)
        u = jax.random.uniform(group_key, dtype=jnp.float32)
        bounds = jnp.array(
            [reset_share, reset_share + (1 - reset_share) * on_policy_share], jnp.float32
        )
        group = (u >= bounds).sum()
        parts = [_pick(k, part, 1) for k, part in zip(keys, self, strict=True)]
        return jax.tree.map(lambda *x: jnp.concatenate(x)[group], *parts)

    def features(self) -> Float[Array, "states features"]:
        """The controller's inputs [z, h] at all states except the resets."""
        groups = (self.on_policy, self.others)
        return jnp.concatenate(
            [jnp.concatenate([group.z, group.memory.hidden], -1) for group in groups]
        )


def _pick(key: PRNGKeyArray, group: DreamState, count: int) -> DreamState:
    chosen = jax.random.randint(key, (count,), 0, group.z.shape[0], jnp.int32)
    return jax.tree.map(lambda x: x[chosen], group)


@eqx.filter_jit
def dream_states_at(
    rnn: DreamModel, z: Float[Array, "time latent"], actions: Array, rows: Int[Array, " states"]
) -> DreamState:
    """The latents and M's memory before these rows of an episode, leaves (states, ...)."""
    states = states_before(rnn, z, actions)
    return DreamState(z[rows], jax.tree.map(lambda leaf: leaf[rows], states))


def build_start_states(entries: Sequence[EpisodeFile], rnn: DreamModel, seed: int) -> StartStates:
    """Take STATES_PER_EPISODE states from each of up to MAX_EPISODES episodes.

    Up to half of the episodes are an agent's, the newest ones, because those are the closest to
    what the present agent does.
    """
    rng = np.random.default_rng([seed, len(entries)])
    own = [entry for entry in entries if entry.mode in AGENT_MODES]
    others = [entry for entry in entries if entry.mode not in AGENT_MODES]
    own = sorted(own, key=lambda entry: entry.seed)[-MAX_EPISODES // 2 :]
    others = [others[i] for i in rng.permutation(len(others))[: MAX_EPISODES - len(own)]]
    longest = max(entry.steps for entry in own + others)
    parts = (own or others, others or own)
    chosen = itertools.chain(*parts)
    reads = read_ahead(lambda entry: read_latent_episode(entry, rnn.latent, smoothing=1), chosen)
    resets, groups = [], []
    for part in parts:
        states = []
        for first in range(0, len(part), EPISODES_AT_ONCE):
            count = len(part[first : first + EPISODES_AT_ONCE])
            batch = [read.result() for read in itertools.islice(reads, count)]
            resets += [episode.mu[0] for episode in batch]
            samples = [_sample(episode, longest, rng) for episode in batch]
            states.append(_states_of(rnn, samples))
        # In NumPy: JAX would compile a program for as many arrays.
        groups.append(jax.tree.map(lambda *x: jax.device_put(np.concatenate(x)), *states))
    memory = rnn.initial_state(len(resets))
    return StartStates(DreamState(jax.device_put(np.stack(resets)), memory), *groups)


def _sample(
    episode: LatentEpisode, longest: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z and actions of an episode, padded to `longest` steps, and STATES_PER_EPISODE rows of it."""
    steps = len(episode.actions)
    # Neither from the zoom at the start nor after a failure, unless the episode has nothing else.
    usable = np.flatnonzero(~episode.failed[ZOOM_STEPS:]) + ZOOM_STEPS
    rows = rng.choice(usable if len(usable) else np.arange(steps), STATES_PER_EPISODE)
    # One length for all episodes saves recompilation. The padding comes after all rows.
    padding = ((0, longest - steps), (0, 0))
    return np.pad(episode.mu[:steps], padding), np.pad(episode.actions, padding), rows


def _states_of(rnn: DreamModel, samples: list[tuple[np.ndarray, ...]]) -> DreamState:
    """The states at the sampled rows, leaves (states, ...) in NumPy."""
    count = len(samples)
    samples += samples[:1] * (EPISODES_AT_ONCE - count)  # one shape for all calls
    columns = (jnp.asarray(np.stack(column)) for column in zip(*samples, strict=True))
    states = _states_of_batch(rnn, *columns)
    return jax.tree.map(lambda leaf: np.concatenate(np.asarray(leaf)[:count]), states)


@eqx.filter_jit
def _states_of_batch(rnn: DreamModel, z: Array, actions: Array, rows: Array) -> DreamState:
    # One after another: a state's bits do not depend on the episodes beside it.
    return jax.lax.map(lambda episode: dream_states_at(rnn, *episode), (z, actions, rows))


def save_start_states(
    path: Path, start_states: StartStates, inputs: dict[str, str], precision: str = "float32"
) -> None:
    """Write start states, atomically. `inputs` has the sha256 of the files they come from."""
    others = start_states.others
    counts = {name: group.z.shape[0] for name, group in start_states._asdict().items()}
    sizes = {"latent": others.z.shape[-1], "hidden": others.memory.hidden.shape[-1], **counts}
    checkpoints.save(path, Header("dream starts", sizes, {}, inputs, {}, precision), start_states)


def load_start_states(path: Path, rnn: MDNRNN) -> tuple[Header, StartStates]:
    """Start states for `rnn`, and their header. Raises UserError, as every checkpoint does."""

    def build(header: Header) -> StartStates:
        def group(name: str) -> DreamState:
            states = header.sizes[name]
            return DreamState(jnp.zeros((states, rnn.latent)), rnn.initial_state(states))

        return StartStates(*map(group, StartStates._fields))

    return checkpoints.load(path, "dream starts", build)
