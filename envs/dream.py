"""The dream as a Gymnasium environment: one, or thousands at once on JAX's device.

docs/dream_environment.md says more.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8, UInt32

from envs import DREAM_STEPS
from models.dream import DreamState, imagine, sample_outcome
from models.rnn import MDNRNN, mixture_noise
from models.vae import ConvVAE
from utils.data.episodes import FRAME_SHAPE, find_latents
from utils.data.start_states import StartStates, build_start_states, load_start_states
from utils.errors import UserError
from utils.io.checkpoints import load_rnn, load_vae
from utils.io.files import sha256_of
from utils.io.run_folder import check_compatible

DECODED_AT_ONCE = 64  # frames: a decoder's activations take a megabyte each
OBSERVATIONS = ("latent", "pixels")
METADATA = {"render_modes": ["rgb_array"], "render_fps": 50}
ACTIONS = Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))  # steer, gas, brake


class EnvState(NamedTuple):
    """Where dreams stand, and the keys from which all that is still to come in them follows."""

    state: DreamState
    key: PRNGKeyArray


class Dream(eqx.Module):
    """V, M and the moments that dreams begin at; everything in batches (n, ...) of dreams."""

    vae: ConvVAE
    rnn: MDNRNN
    start_states: StartStates
    temperature: Float[Array, ""]
    reset_share: Float[Array, ""]
    on_policy_share: Float[Array, ""]
    observation: str = eqx.field(static=True)

    @eqx.filter_jit
    def begin(self, seeds: UInt32[Array, " n"]) -> EnvState:
        """New dreams, each decided by its seed alone."""
        return jax.vmap(self._begin)(jax.vmap(jax.random.key)(seeds))

    @eqx.filter_jit
    def begin_again(self, moments: EnvState) -> EnvState:
        """Other dreams in the place of all of these, decided by their keys."""
        return jax.vmap(self._begin)(moments.key)

    @eqx.filter_jit
    def step(
        self, moments: EnvState, actions: Float[Array, "n 3"]
    ) -> tuple[EnvState, Float[Array, " n"], Bool[Array, " n"], Float[Array, " n"]]:
        """One imagined step each: rewards in points, which drives were lost, and how likely."""
        return jax.vmap(self._step)(moments, jnp.clip(actions, ACTIONS.low, ACTIONS.high))

    @eqx.filter_jit
    def observe(self, moments: EnvState) -> Float[Array, "n features"] | UInt8[Array, "n 64 64 3"]:
        """What is seen: [z, h], h not yet having seen z, or the frames that V draws of z."""
        state = moments.state
        if self.observation == "latent":
            return jnp.concatenate([state.z, state.memory.hidden], axis=-1)
        return self.draw(state.z)

    @eqx.filter_jit
    def draw(self, z: Float[Array, "n latent"]) -> UInt8[Array, "n 64 64 3"]:
        """The frames that V draws of latents."""

        def frame(z: Array) -> Array:
            return jnp.rint(self.vae.decode(z) * 255).astype(jnp.uint8)

        return jax.lax.map(frame, z, batch_size=DECODED_AT_ONCE)

    def _begin(self, key: PRNGKeyArray) -> EnvState:
        start_key, key = jax.random.split(key)
        start = self.start_states.sample_one(start_key, self.reset_share, self.on_policy_share)
        return EnvState(start, key)

    def _step(self, moment: EnvState, action: Float[Array, " 3"]) -> tuple:
        key, noise_key, outcome_key = jax.random.split(moment.key, 3)
        noise = mixture_noise(noise_key, (self.rnn.latent,))
        state, prediction = imagine(self.rnn, moment.state, action, noise, self.temperature)
        reward, failed = sample_outcome(prediction, jax.random.uniform(outcome_key))
        return EnvState(state, key), reward, failed, jax.nn.sigmoid(prediction.end_logit)


def load_dream(
    run_dir: str | Path,
    data_dir: str | Path | None = None,
    observation: str = "latent",
    temperature: float = 1.0,
    reset_share: float = 0.15,
    on_policy_share: float = 0.5,
) -> Dream:
    """The dream of a run folder.

    Args:
        run_dir: has vae.eqx, rnn.eqx and starts.eqx.
        data_dir: take the starts from its latents/ instead of the run's starts.eqx.
        observation: "latent" for [z, h], float32 (288,), or "pixels", uint8 (64, 64, 3).
        temperature: of the mixture; above 1 the dream is wilder, below 1 tamer.
        reset_share: chance that a dream begins at a start line, with an empty memory.
        on_policy_share: chance that one of the others begins in the agent's own drives.

    Raises UserError, naming file and step, where files are missing or do not belong together.
    """
    check_observation(observation)
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} is not above 0")
    if not (0 <= reset_share <= 1 and 0 <= on_policy_share <= 1):
        raise ValueError("a share lies between 0 and 1")
    vae, rnn = load_vae_and_rnn(Path(run_dir))
    start_states = load_starts(Path(run_dir), rnn, None if data_dir is None else Path(data_dir))
    numbers = (temperature, reset_share, on_policy_share)
    dream = Dream(vae, rnn, start_states, *map(jnp.float32, numbers), observation)
    return jax.tree.map(jnp.asarray, dream)  # on the device, once and for all


def load_vae_and_rnn(run_dir: Path) -> tuple[ConvVAE, MDNRNN]:
    """V and M of a run folder; UserError if they do not belong together."""
    _, vae = load_vae(run_dir / "vae.eqx")
    header, rnn = load_rnn(run_dir / "rnn.eqx")
    check_compatible(run_dir / "rnn.eqx", header.inputs, "vae", run_dir / "vae.eqx")
    return vae, rnn


def load_starts(run_dir: Path, rnn: MDNRNN, data_dir: Path | None) -> StartStates:
    """The moments to begin at: as train_dream.py kept them, or from other data."""
    if data_dir is not None:
        entries = find_latents(data_dir, rnn.latent, sha256_of(run_dir / "vae.eqx"))
        return build_start_states([entry for entry in entries if not entry.held_out], rnn, seed=0)
    path = run_dir / "starts.eqx"
    if not path.exists():
        raise UserError(f"{path} is missing: run train_dream.py, or name a data_dir with latents/")
    header, start_states = load_start_states(path)
    check_compatible(path, header.inputs, "rnn", run_dir / "rnn.eqx")
    return start_states


def check_observation(observation: str) -> None:
    """ValueError if an environment cannot show that."""
    if observation not in OBSERVATIONS:
        raise ValueError(f"observation {observation!r} is none of {OBSERVATIONS}")


def observation_space(observation: str, rnn: MDNRNN) -> Space:
    """[z, h], unbounded as z is, or a frame."""
    if observation == "pixels":
        return Box(0, 255, FRAME_SHAPE, np.uint8)
    return Box(-np.inf, np.inf, (rnn.latent + rnn.hidden,), np.float32)


class DreamCarRacing(gymnasium.Env):
    """One dream. Keyword arguments are those of `load_dream`.

    Reward and end are what M predicts; "end_probability" in the info is that of the drive being
    lost at this step. Seed s decides a dream as it does one of `DreamCarRacingVector`.
    """

    metadata = METADATA

    def __init__(self, run_dir: str | Path, render_mode: str | None = None, **arguments: Any):
        self.dream = load_dream(run_dir, **arguments)
        self.observation_space = observation_space(self.dream.observation, self.dream.rnn)
        self.action_space = ACTIONS
        self.render_mode = render_mode
        self.moment: EnvState | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new dream; there are no options."""
        super().reset(seed=seed)
        if seed is None and self.moment is not None:
            self.moment = self.dream.begin_again(self.moment)
        else:
            first = self.np_random.integers(2**32) if seed is None else seed
            self.moment = self.dream.begin(_seeds([first]))
        return np.array(self.dream.observe(self.moment))[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One imagined step of 1/50 s."""
        self.moment, *outcome = _step_and_observe(
            self.dream, self.moment, np.asarray(action, np.float32)[None]
        )
        reward, failed, end, observation = (np.array(array)[0] for array in outcome)
        return observation, float(reward), bool(failed), False, {"end_probability": float(end)}

    def render(self) -> np.ndarray | None:
        """The frame that V draws, uint8 (64, 64, 3)."""
        if self.render_mode is None:
            return None
        return np.array(self.dream.draw(self.moment.state.z))[0]


@eqx.filter_jit
def _step_and_observe(dream: Dream, moments: EnvState, actions: Array) -> tuple:
    # One call in place of two: for a single dream, calls are what takes the time.
    moments, *outcome = dream.step(moments, actions)
    return moments, *outcome, dream.observe(moments)


def _seeds(seeds: Sequence[int]) -> np.ndarray:
    return np.array([int(seed) % 2**32 for seed in seeds], np.uint32)


def _masked(name: str, values: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    # How a gymnasium.vector says that not all sub-environments have this info.
    return {name: np.where(mask, values, 0), f"_{name}": mask}


@jax.jit
def _choose(mask: Bool[Array, " n"], new: EnvState, old: EnvState) -> EnvState:
    def choose(chosen: Array, *moments: EnvState) -> EnvState:
        return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), *moments)

    return jax.vmap(choose)(mask, new, old)


class DreamCarRacingVector(VectorEnv):
    """`num_envs` dreams at once, computed together on JAX's device; arrays come out as NumPy's.

    Other keyword arguments are those of `load_dream`. A dream is cut off after
    `max_episode_steps`. All three of Gymnasium's autoreset modes are known; DISABLED takes
    `reset(options={"reset_mask": ...})`.
    """

    def __init__(
        self,
        run_dir: str | Path,
        num_envs: int = 1,
        max_episode_steps: int = DREAM_STEPS,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **arguments: Any,
    ):
        self.dream = load_dream(run_dir, **arguments)
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.single_observation_space = observation_space(self.dream.observation, self.dream.rnn)
        self.single_action_space = ACTIONS
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.moments: EnvState | None = None
        self.steps = np.zeros(num_envs, np.int64)
        self.ended = np.zeros(num_envs, bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """New dreams: all, or those of options["reset_mask"], bool (num_envs,).

        An int seeds dream i with seed + i. Without a seed, dreams go on from their keys.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if np.shape(mask) != (self.num_envs,) or np.asarray(mask).dtype != bool or not np.any(mask):
            raise ValueError(f"reset_mask must be bool ({self.num_envs},), not all False")
        if seed is None and self.moments is not None:
            fresh = self.dream.begin_again(self.moments)
        else:
            fresh = self.dream.begin(self._seeds(seed))
        self.moments = _choose(mask, fresh, fresh if self.moments is None else self.moments)
        self.steps[mask], self.ended[mask] = 0, False
        return self._observations(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One imagined step of 1/50 s in every dream."""
        begins, before = self.ended, self.moments
        if begins.any() and self.autoreset_mode == AutoresetMode.DISABLED:
            raise ValueError("dreams have ended: reset them with options={'reset_mask': ...}")
        self.moments, *outcome = self.dream.step(before, np.asarray(actions, np.float32))
        rewards, failed, end = (np.array(array) for array in outcome)
        if begins.any():  # NEXT_STEP: this step is their reset, whatever the action
            self.moments = _choose(begins, self.dream.begin_again(before), self.moments)
            rewards[begins], failed[begins] = 0.0, False
        self.steps = np.where(begins, 0, self.steps + 1)
        truncated = self.steps >= self.max_episode_steps
        self.ended = failed | truncated
        if self.ended.any() and self.autoreset_mode == AutoresetMode.SAME_STEP:
            infos = self._begin_again_at_once(end)
        else:
            infos = _masked("end_probability", end, ~begins)
        return self._observations(), rewards, failed, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The frames that V draws, uint8 (64, 64, 3) each."""
        if self.render_mode is None:
            return None
        return tuple(np.array(self.dream.draw(self.moments.state.z)))

    def _begin_again_at_once(self, end: np.ndarray) -> dict[str, Any]:
        ended, last = self.ended, self._observations()
        final = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(ended):
            final[i] = last[i]
        self.moments = _choose(ended, self.dream.begin_again(self.moments), self.moments)
        self.steps, self.ended = np.where(ended, 0, self.steps), np.zeros_like(ended)
        return {
            **_masked("end_probability", end, ~ended),
            "final_obs": final,
            "_final_obs": ended,
            "final_info": _masked("end_probability", end, ended),
            "_final_info": ended,
        }

    def _seeds(self, seed: int | Sequence[int] | None) -> np.ndarray:
        if seed is None:
            return self.np_random.integers(2**32, size=self.num_envs, dtype=np.uint32)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} dreams")
        return _seeds(seeds)

    def _observations(self) -> np.ndarray:
        return np.array(self.dream.observe(self.moments))
