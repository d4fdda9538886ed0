"""The agent on the real track: V encodes the frame, C chooses the action, M updates the memory."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from models.controller import Controller
from models.rnn import MDNRNN, RNNState
from models.vae import ConvVAE
from utils.io.checkpoints import load_controller, load_rnn, load_vae
from utils.io.run_folder import AgentFiles, check_compatible
from utils.sim.tasks import CARS_PER_BATCH

ACTION_LOW = np.array([-1, 0, 0], np.float32)  # steer, gas, brake
ACTION_HIGH = np.array([1, 1, 1], np.float32)


@eqx.filter_jit
def encode(vae: ConvVAE, frame: UInt8[Array, "64 64 3"]) -> Float[Array, " latent"]:
    """The frame's latent: mu. Acting needs no sample of the posterior."""
    return vae.encode(frame)[0]


@eqx.filter_jit
def update_memory(
    rnn: MDNRNN, memory: RNNState, z: Float[Array, " latent"], action: Float[Array, " 3"]
) -> RNNState:
    """M's state after (z, action)."""
    return rnn.step(memory, z, action)[0]


@jax.jit
def policy_step(
    parts: tuple[ConvVAE, MDNRNN, Controller],
    memory: RNNState,
    frames: UInt8[Array, "cars 64 64 3"],
    noise: Float[Array, "cars 3"],
) -> tuple[RNNState, Float[Array, "cars 3"]]:
    """One step of the policy for a batch of cars: a = clip(C(z, h) + noise), then M's update."""
    vae, rnn, controller = parts
    z = vae.encode(frames)[0]
    actions = jnp.clip(controller(z, memory.hidden) + noise, ACTION_LOW, ACTION_HIGH)
    return rnn.step(memory, z, actions)[0], actions


class Agent:
    """A `Driver` made of V, M and C, for one car or for CARS_PER_BATCH cars at a time."""

    def __init__(self, vae: ConvVAE, rnn: MDNRNN, controller: Controller):
        self.vae, self.rnn, self.controller = vae, rnn, controller
        self.reset()

    @classmethod
    def load(cls, files: AgentFiles) -> "Agent":
        """Read V, M and C. Raises UserError if they were not trained for each other."""
        _, vae = load_vae(files.vae)
        rnn_header, rnn = load_rnn(files.rnn)
        controller_header, controller = load_controller(files.controller)
        check_compatible(files.rnn, rnn_header.inputs, "vae", files.vae)
        check_compatible(files.controller, controller_header.inputs, "vae", files.vae)
        check_compatible(files.controller, controller_header.inputs, "rnn", files.rnn)
        return cls(vae, rnn, controller)

    def reset(self, environment: Any = None) -> None:
        """Clear the memory of every car."""
        self.memory = self.rnn.initial_state(CARS_PER_BATCH)

    def act_batch(self, frames: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Frames uint8 (cars, 64, 64, 3) and noise float32 (cars, 3) -> actions float32 (cars, 3).

        The noise is added to the controller's actions. The memory gets the noisy actions.
        """
        parts = (self.vae, self.rnn, self.controller)
        self.memory, actions = policy_step(parts, self.memory, frames, noise)
        return np.asarray(actions)

    def act(self, frame: np.ndarray, noise: np.ndarray | float = 0.0) -> np.ndarray:
        """Frame uint8 (64, 64, 3) -> action float32 (3). The car uses the first slot."""
        frames = np.zeros((CARS_PER_BATCH, *frame.shape), np.uint8)
        noises = np.zeros((CARS_PER_BATCH, 3), np.float32)
        frames[0], noises[0] = frame, noise
        return self.act_batch(frames, noises)[0]
