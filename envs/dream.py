"""The dream as a Gymnasium environment, and its pure JAX core. See docs/dream_environment.md."""

from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8, UInt32

from envs.checks import (
    ACTION_SPACE,
    MAX_SEED,
    check_actions,
    check_not_forked,
    check_observation,
    check_seed,
    check_was_reset,
    observation_space,
    was_forked,
)
from models.dream import DreamState, imagine, sample_outcome
from models.rnn import MDNRNN, mixture_noise
from models.vae import ConvVAE
from utils.data.episodes import find_latents
from utils.data.start_states import StartStates, build_start_states, load_start_states
from utils.errors import UserError
from utils.io.checkpoints import load_rnn, load_vae, read_header
from utils.io.files import sha256_of
from utils.io.hub import fetch_run_folder
from utils.io.run_folder import check_compatible

DECODE_BATCH = 64  # frames; the decoder's activations take about 1 MB per frame
METADATA = {"render_modes": ["rgb_array"], "render_fps": 50}


class EnvState(NamedTuple):
    """A batch of dreams: where they are, and the keys of all their further randomness."""

    dream: DreamState
    key: PRNGKeyArray


class Dream(eqx.Module):
    """V, M and the start states as pure functions of batches of n dreams."""

    vae: ConvVAE
    rnn: MDNRNN
    start_states: StartStates
    temperature: Float[Array, ""]
    reset_share: Float[Array, ""]
    on_policy_share: Float[Array, ""]
    observation: str = eqx.field(static=True)

    @eqx.filter_jit
    def reset(self, seeds: UInt32[Array, " n"]) -> EnvState:
        """New dreams. Each is determined by its seed."""
        return jax.vmap(self._reset)(jax.vmap(jax.random.key)(seeds))

    @eqx.filter_jit
    def reset_from(self, state: EnvState) -> EnvState:
        """New dreams in place of all of these, determined by the keys of `state`."""
        return jax.vmap(self._reset)(state.key)

    @eqx.filter_jit
    def step(
        self, state: EnvState, actions: Float[Array, "n 3"]
    ) -> tuple[EnvState, Float[Array, " n"], Bool[Array, " n"], Float[Array, " n"]]:
        """One imagined step: the new state, rewards in points, failed, probability of failure."""
        return jax.vmap(self._step)(state, jnp.clip(actions, ACTION_SPACE.low, ACTION_SPACE.high))

    @eqx.filter_jit
    def observe(self, state: EnvState) -> Float[Array, "n features"] | UInt8[Array, "n 64 64 3"]:
        """[z_t, h_t], where h_t does not depend on z_t yet, or V's decoding of z_t."""
        dream = state.dream
        if self.observation == "latent":
            return jnp.concatenate([dream.z, dream.memory.hidden], axis=-1)
        return self.decode(dream.z)

    @eqx.filter_jit
    def decode(self, z: Float[Array, "n latent"]) -> UInt8[Array, "n 64 64 3"]:
        """V's decoding of latents as frames."""

        def frame(z: Array) -> Array:
            return jnp.rint(self.vae.decode(z) * 255).astype(jnp.uint8)

        return jax.lax.map(frame, z, batch_size=DECODE_BATCH)

    def _reset(self, key: PRNGKeyArray) -> EnvState:
        start_key, key = jax.random.split(key)
        start = self.start_states.sample_one(start_key, self.reset_share, self.on_policy_share)
        return EnvState(start, key)

    def _step(self, state: EnvState, action: Float[Array, " 3"]) -> tuple:
        key, noise_key, outcome_key = jax.random.split(state.key, 3)
        noise = mixture_noise(noise_key, (self.rnn.latent,))
        dream, prediction = imagine(self.rnn, state.dream, action, noise, self.temperature)
        reward, failed = sample_outcome(
            prediction, jax.random.uniform(outcome_key, dtype=jnp.float32)
        )
        return EnvState(dream, key), reward, failed, jax.nn.sigmoid(prediction.end_logit)


def load_dream(
    run_dir: str | Path,
    data_dir: str | Path | None = None,
    observation: str = "latent",
    temperature: float = 1.0,
    reset_share: float = 0.15,
    on_policy_share: float = 0.5,
) -> Dream:
    """Load the dream of a run folder.

    Args:
        run_dir: folder with vae.eqx, rnn.eqx and starts.eqx, or hf://OWNER/NAME on the Hub.
        data_dir: take the start states from its latents/ instead of starts.eqx.
        observation: "latent" for [z, h], float32 (latent + hidden,), or "pixels" for frames,
            uint8 (64, 64, 3).
        temperature: of the mixture; above 1 makes the dream more random, below 1 less.
        reset_share: probability that a dream starts at a start line, with M's initial state.
        on_policy_share: probability that another dream starts in one of the agent's own drives.

    Raises:
        UserError: a file is missing, or the files do not belong together.
        ValueError: an argument is out of range.
    """
    check_observation(observation)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    for name, share in (("reset_share", reset_share), ("on_policy_share", on_policy_share)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be between 0 and 1, not {share}")
    run_dir = fetch_run_folder(run_dir)
    vae, rnn = load_vae_and_rnn(run_dir)
    starts = load_starts(run_dir, rnn, None if data_dir is None else Path(data_dir))
    numbers = (temperature, reset_share, on_policy_share)
    dream = Dream(vae, rnn, starts, *map(jnp.float32, numbers), observation)
    return jax.tree.map(jnp.asarray, dream)  # moved to the device once


def load_vae_and_rnn(run_dir: Path) -> tuple[ConvVAE, MDNRNN]:
    """V and M of a run folder; UserError if they do not belong together."""
    _, vae = load_vae(run_dir / "vae.eqx")
    header, rnn = load_rnn(run_dir / "rnn.eqx")
    check_compatible(run_dir / "rnn.eqx", header.inputs, "vae", run_dir / "vae.eqx")
    return vae, rnn


def load_starts(run_dir: Path, rnn: MDNRNN, data_dir: Path | None) -> StartStates:
    """The start states that train_dream.py saved, or new ones from the latents of `data_dir`."""
    if data_dir is not None:
        entries = find_latents(data_dir, rnn.latent, sha256_of(run_dir / "vae.eqx"))
        return build_start_states([entry for entry in entries if not entry.held_out], rnn, seed=0)
    path = run_dir / "starts.eqx"
    if not path.exists():
        raise UserError(f"{path} is missing: run train_dream.py, or name a data_dir with latents/")
    header, start_states = load_start_states(path, rnn)
    check_compatible(path, header.inputs, "rnn", run_dir / "rnn.eqx")
    return start_states


class DreamCarRacing(gymnasium.Env):
    """A single dream. Takes the arguments of `load_dream`.

    Rewards and terminations are M's predictions; info["end_probability"] is the predicted
    probability that the step ends the drive in failure. A seed gives the same dream here and in
    `DreamCarRacingVector`.
    """

    metadata = METADATA

    def __init__(self, run_dir: str | Path, render_mode: str | None = None, **arguments: Any):
        # In a forked process the error waits for reset(): gymnasium's AsyncVectorEnv then reports
        # it, where an error in a worker's constructor would only break its pipe.
        run_dir = fetch_run_folder(run_dir)
        self.dream = None if was_forked() else load_dream(run_dir, **arguments)
        sizes = read_header(run_dir / "rnn.eqx").sizes
        self.observation_space = observation_space(arguments.get("observation", "latent"), sizes)
        self.action_space = ACTION_SPACE
        self.render_mode = render_mode
        self.state: EnvState | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new dream; there are no options. `seed` is between 0 and 2³² − 1."""
        check_not_forked()
        seed = None if seed is None else check_seed(seed)
        super().reset(seed=seed)
        if seed is None and self.state is not None:
            self.state = self.dream.reset_from(self.state)
        else:
            seed = int(self.np_random.integers(MAX_SEED + 1)) if seed is None else seed
            self.state = self.dream.reset(np.array([seed], np.uint32))
        return np.array(self.dream.observe(self.state))[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One imagined step of 1/50 s. Actions are clipped to the action space."""
        check_was_reset(self.state)
        action = check_actions(action, ACTION_SPACE.shape)
        self.state, *outcome = _step_and_observe(self.dream, self.state, action[None])
        reward, failed, end, observation = (np.array(array)[0] for array in outcome)
        return observation, float(reward), bool(failed), False, {"end_probability": float(end)}

    def render(self) -> np.ndarray | None:
        """V's decoding of z, uint8 (64, 64, 3)."""
        if self.render_mode is None:
            return None
        check_was_reset(self.state)
        return np.array(self.dream.decode(self.state.dream.z))[0]


@eqx.filter_jit
def _step_and_observe(dream: Dream, state: EnvState, actions: Array) -> tuple:
    # One compiled call instead of two: for a single dream, the calls take most of the time.
    state, *outcome = dream.step(state, actions)
    return state, *outcome, dream.observe(state)
