"""The agent on the real track: V sees, C decides, M remembers."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from models.controller import Controller
from models.rnn import MDNRNN, LSTMState
from models.vae import ConvVAE
from utils.io.checkpoints import load_controller, load_rnn, load_vae
from utils.io.run_folder import AgentFiles, check_compatible

# Cars that one process drives side by side: V's products are then twice as fast. The batch is
# always so large, empty lanes are padding, and a track has its lane: so an episode has the same
# bytes whichever others are driven beside it.
CARS_PER_BATCH = 2
ACTION_LOW, ACTION_HIGH = np.float32([-1, 0, 0]), np.float32([1, 1, 1])


@eqx.filter_jit
def encode(vae: ConvVAE, frame: UInt8[Array, "64 64 3"]) -> Float[Array, " latent"]:
    """The frame's latent: mu, since a driver has no use for the encoder's noise."""
    return vae.encode(frame)[0]


@eqx.filter_jit
def update_memory(
    rnn: MDNRNN, memory: LSTMState, z: Float[Array, " latent"], action: Float[Array, " 3"]
) -> LSTMState:
    """The memory after z was seen and the action done."""
    return rnn.step(memory, z, action)[0]


@jax.jit
def policy_step(
    parts: tuple[ConvVAE, MDNRNN, Controller],
    memory: LSTMState,
    frames: UInt8[Array, "lanes 64 64 3"],
    noise: Float[Array, "lanes 3"],
) -> tuple[LSTMState, Float[Array, "lanes 3"]]:
    """See, decide, and remember what was seen and done; the noise is added to the decision."""
    vae, rnn, controller = parts
    z = vae.encode(frames)[0]
    actions = jnp.clip(controller(z, memory.hidden) + noise, ACTION_LOW, ACTION_HIGH)
    return rnn.step(memory, z, actions)[0], actions


class Agent:
    """Drives with a trained V, M and C, one car or CARS_PER_BATCH of them; a `Driver`."""

    def __init__(self, vae: ConvVAE, rnn: MDNRNN, controller: Controller):
        self.vae, self.rnn, self.controller = vae, rnn, controller
        self.reset()

    @classmethod
    def load(cls, files: AgentFiles) -> "Agent":
        """Read the three parts; UserError if they do not belong together."""
        _, vae = load_vae(files.vae)
        rnn_header, rnn = load_rnn(files.rnn)
        controller_header, controller = load_controller(files.controller)
        check_compatible(files.rnn, rnn_header.inputs, "vae", files.vae)
        check_compatible(files.controller, controller_header.inputs, "vae", files.vae)
        check_compatible(files.controller, controller_header.inputs, "rnn", files.rnn)
        return cls(vae, rnn, controller)

    def reset(self, environment: Any = None) -> None:
        """Begin with an empty memory in every lane."""
        self.memory = LSTMState(*np.zeros((2, CARS_PER_BATCH, self.rnn.hidden), np.float32))

    def act_batch(self, frames: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Frames uint8 (cars, 64, 64, 3) and noise float32 (cars, 3) to actions float32 (cars, 3).

        The memory takes in the frames, and the actions as they are with the noise.
        """
        parts = (self.vae, self.rnn, self.controller)
        self.memory, actions = policy_step(parts, self.memory, frames, noise)
        return np.asarray(actions)

    def act(self, frame: np.ndarray, noise: np.ndarray | float = 0.0) -> np.ndarray:
        """Frame uint8 (64, 64, 3) -> action float32 (3), in the first lane."""
        frames, noises = (
            np.zeros((CARS_PER_BATCH, *frame.shape), np.uint8),
            np.zeros((CARS_PER_BATCH, 3), np.float32),
        )
        frames[0], noises[0] = frame, noise
        return self.act_batch(frames, noises)[0]
