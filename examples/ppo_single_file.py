"""PPO in one file, in the style of CleanRL: learn in the dream, then drive the real track.

    python -m examples.ppo_single_file                             # the shipped agent's dream
    python -m examples.ppo_single_file --run-dir runs/default --total-timesteps 1000000
    python -m examples.ppo_single_file --env real --num-envs 4     # learn on the real track, slowly

JAX, Equinox and Optax, which are installed already. Observations are [z, h]; the policy is a
Gaussian with a mean from a small network. Flags have CleanRL's names. The algorithm is that of
Schulman et al. 2017; an episode cut off by its time limit is continued by the value of its last
observation.
"""

import argparse
import time
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
from gymnasium.wrappers.vector import NormalizeReward, RecordEpisodeStatistics
from jaxtyping import Array, Float, PRNGKeyArray

from envs.checks import check_seed
from utils.output import protect_output
from utils.runtime import format_score

FIRST_TRACK = 80_000_000  # validation tracks


class Agent(eqx.Module):
    """Two networks, for the mean of the actions and for the value, and one spread."""

    actor: eqx.nn.MLP
    critic: eqx.nn.MLP
    log_std: Float[Array, " actions"]

    def __init__(self, observation: int, actions: int, key: PRNGKeyArray):
        actor_key, critic_key = jax.random.split(key)
        size: dict[str, Any] = {"width_size": 64, "depth": 2, "activation": jnp.tanh}
        actor = eqx.nn.MLP(observation, actions, key=actor_key, **size)
        # Small last weights: at first the mean of the actions hardly depends on the observation.
        last = actor.layers[-1].weight
        self.actor = eqx.tree_at(lambda mlp: mlp.layers[-1].weight, actor, 0.01 * last)
        self.critic = eqx.nn.MLP(observation, "scalar", key=critic_key, **size)
        self.log_std = jnp.full(actions, -0.5)

    def log_prob(self, mean: Array, action: Array) -> Array:
        """Log density of an action, nats."""
        return jax.scipy.stats.norm.logpdf(action, mean, jnp.exp(self.log_std)).sum()


class Batch(NamedTuple):
    """What a rollout keeps of every step; leaves (steps, environments, ...)."""

    observation: Array
    action: Array
    log_prob: Array
    value: Array
    reward: Array
    done: Array


@eqx.filter_jit
def act(agent: Agent, observation: Array, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
    """Sampled actions, their log densities, and the values of the observations."""
    mean = jax.vmap(agent.actor)(observation)
    action = mean + jnp.exp(agent.log_std) * jax.random.normal(key, mean.shape)
    value = jax.vmap(agent.critic)(observation)
    return action, jax.vmap(agent.log_prob)(mean, action), value


@eqx.filter_jit
def values(agent: Agent, observation: Array) -> Array:
    """The values of observations."""
    return jax.vmap(agent.critic)(observation)


def advantages(batch: Batch, last: Array, gamma: float, gae_lambda: float) -> Array:
    """Generalised advantage estimates. `last`: the values after the rollout."""

    def step(carry: tuple, row: Batch) -> tuple:
        following, next_value = carry
        kept = 1.0 - row.done
        delta = row.reward + gamma * kept * next_value - row.value
        advantage = delta + gamma * gae_lambda * kept * following
        return (advantage, row.value), advantage

    return jax.lax.scan(step, (jnp.zeros_like(last), last), batch, reverse=True)[1]


def ppo_loss(agent: Agent, rows: tuple, flags: argparse.Namespace) -> Array:
    """The clipped objective, the error of the values, and the entropy."""
    batch, advantage, target = rows
    mean = jax.vmap(agent.actor)(batch.observation)
    ratio = jnp.exp(jax.vmap(agent.log_prob)(mean, batch.action) - batch.log_prob)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = jnp.clip(ratio, 1 - flags.clip_coef, 1 + flags.clip_coef)
    policy_loss = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
    value_loss = 0.5 * jnp.square(jax.vmap(agent.critic)(batch.observation) - target).mean()
    entropy = (agent.log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e)).sum()
    return policy_loss + flags.vf_coef * value_loss - flags.ent_coef * entropy


def make_update(flags: argparse.Namespace, optimiser: optax.GradientTransformation) -> Any:
    """Compile the update after a rollout: some epochs of shuffled minibatches."""
    size = flags.num_envs * flags.num_steps

    @eqx.filter_jit
    def update(agent: Agent, state: Any, batch: Batch, last: Array, key: PRNGKeyArray) -> tuple:
        weights, static = eqx.partition(agent, eqx.is_inexact_array)
        advantage = advantages(batch, last, flags.gamma, flags.gae_lambda)
        rows = (batch, advantage, advantage + batch.value)
        rows = jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), rows)

        def loss(weights: Any, chosen: Array) -> Array:
            return ppo_loss(
                eqx.combine(weights, static), jax.tree.map(lambda x: x[chosen], rows), flags
            )

        def minibatch(carry: tuple, chosen: Array) -> tuple:
            weights, state = carry
            updates, state = optimiser.update(jax.grad(loss)(weights, chosen), state)
            return (optax.apply_updates(weights, updates), state), None

        keys = jax.random.split(key, flags.update_epochs)
        order = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
        chosen = order.reshape(flags.update_epochs * flags.num_minibatches, -1)
        (weights, state), _ = jax.lax.scan(minibatch, (weights, state), chosen)
        return eqx.combine(weights, static), state

    return update


def make_envs(flags: argparse.Namespace) -> RecordEpisodeStatistics:
    """Dreams, or real tracks, whose ended episodes are reset in the same step."""
    arguments: dict[str, Any] = {"num_envs": flags.num_envs, "run_dir": flags.run_dir}
    if flags.env == "dream":
        arguments |= {"temperature": flags.temperature, "autoreset_mode": "SameStep"}
        envs = gymnasium.make_vec("envs:DreamCarRacing-v0", **arguments)
    else:
        same_step = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
        envs = gymnasium.make_vec(
            "envs:RealCarRacing-v0", vectorization_mode="sync", vector_kwargs=same_step, **arguments
        )
    return RecordEpisodeStatistics(envs)


def learn(flags: argparse.Namespace) -> Agent:
    """The agent after `total_timesteps` steps."""
    statistics = make_envs(flags)
    envs = NormalizeReward(statistics, gamma=flags.gamma)
    key, agent_key = jax.random.split(jax.random.key(flags.seed))
    agent = Agent(
        envs.single_observation_space.shape[0], envs.single_action_space.shape[0], agent_key
    )
    updates = max(1, flags.total_timesteps // (flags.num_envs * flags.num_steps))
    gradient_steps = updates * flags.update_epochs * flags.num_minibatches
    rate = optax.linear_schedule(flags.learning_rate, 0.0, gradient_steps)
    clip = optax.clip_by_global_norm(flags.max_grad_norm)
    optimiser = optax.chain(clip, optax.adam(rate, eps=1e-5))
    state = optimiser.init(eqx.filter(agent, eqx.is_inexact_array))
    update = make_update(flags, optimiser)

    begun = time.monotonic()
    observation, _ = envs.reset(seed=flags.seed)
    for number in range(1, updates + 1):
        steps = []
        for _ in range(flags.num_steps):
            key, act_key = jax.random.split(key)
            action, log_prob, value = act(agent, observation, act_key)
            following, reward, terminated, truncated, infos = envs.step(np.asarray(action))
            if truncated.any():  # the episode would go on: add the value of what follows
                last = following.copy()
                last[truncated] = np.stack(infos["final_obs"][truncated])
                reward = reward + flags.gamma * truncated * np.asarray(values(agent, last))
            done = (terminated | truncated).astype(np.float32)
            reward = reward.astype(np.float32)
            steps.append(Batch(observation, action, log_prob, value, reward, done))
            observation = following
        batch = jax.tree.map(lambda *rows: jnp.stack(rows), *steps)
        key, update_key = jax.random.split(key)
        agent, state = update(agent, state, batch, values(agent, observation), update_key)
        done_steps = number * flags.num_envs * flags.num_steps
        returns = statistics.return_queue
        mean = f"{np.mean(returns):.0f}" if returns else "not known yet"
        rate_now = done_steps / (time.monotonic() - begun)
        print(f"{done_steps:,} steps, {rate_now:,.0f} per second, mean return: {mean}", flush=True)
    envs.close()
    return agent


def drive(agent: Agent, run_dir: str, track: int, steps: int) -> float:
    """The score on a real track, with the mean of the policy as action."""
    env = gymnasium.make("envs:RealCarRacing-v0", run_dir=run_dir, max_episode_steps=steps)
    actor = eqx.filter_jit(agent.actor)
    observation, _ = env.reset(seed=track)
    score, ended = 0.0, False
    while not ended:
        action = np.asarray(actor(observation))
        observation, reward, terminated, truncated, _ = env.step(action)
        score, ended = score + float(reward), terminated or truncated
    env.close()
    return score


def seed(text: str) -> int:
    """A seed that JAX and the environments take; ValueError, a usage error, of another."""
    return check_seed(int(text))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.ppo_single_file",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run-dir", default="pretrained", help="folder of V, M and start states (pretrained)")
    add("--env", default="dream", choices=("dream", "real"), help="where to learn (dream)")
    add("--temperature", type=float, default=1.0, help="of the dream (1.0)")
    add("--seed", type=seed, default=0, help="of the weights, actions and first episodes (0)")
    add("--total-timesteps", type=int, default=500_000, help="steps to learn from (500000)")
    add("--num-envs", type=int, default=256, help="environments in parallel (256)")
    add("--num-steps", type=int, default=50, help="steps of each between updates (50)")
    add("--learning-rate", type=float, default=1e-3, help="at first; falls to zero (0.001)")
    add("--gamma", type=float, default=0.98, help="discount (0.98)")
    add("--gae-lambda", type=float, default=0.95, help="of the advantage estimate (0.95)")
    add("--num-minibatches", type=int, default=8, help="of a rollout (8)")
    add("--update-epochs", type=int, default=4, help="passes over a rollout (4)")
    add("--clip-coef", type=float, default=0.2, help="limit of the probability ratio (0.2)")
    add("--ent-coef", type=float, default=0.0, help="weight of the entropy (0)")
    add("--vf-coef", type=float, default=0.5, help="weight of the values' error (0.5)")
    add("--max-grad-norm", type=float, default=0.5, help="limit of the gradient (0.5)")
    add("--tracks", type=int, default=8, help="real tracks to drive at the end (8)")
    add("--real-steps", type=int, default=1000, help="limit of such a drive (1000)")
    flags = parser.parse_args()
    if flags.num_envs * flags.num_steps % flags.num_minibatches:
        parser.error("--num-minibatches must divide --num-envs times --num-steps")
    return flags


def main() -> None:
    """Learn, then drive real tracks that nothing was learned on."""
    protect_output()
    flags = parse()
    agent, scores = learn(flags), []
    for track in range(FIRST_TRACK, FIRST_TRACK + flags.tracks):
        scores.append(drive(agent, flags.run_dir, track, flags.real_steps))
        print(f"real track {track}: {scores[-1]:.0f}", flush=True)
    if scores:
        print(f"real score: {format_score(scores, '.0f')} on {len(scores)} tracks")


if __name__ == "__main__":
    main()
