"""The environments against float64 NumPy, Gymnasium's own vector environments, and the agent.

Over 300 lines: the single and the vector environment share references.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from oracles import constant_rnn, foresee, lstm_step, random_model, sample

from envs.dream import Dream, load_dream
from models.controller import Controller
from models.dream import DreamState, sample_outcome
from models.rnn import MDNRNN, LSTMState, Prediction, mixture_noise
from models.vae import ConvVAE
from utils.data.start_states import StartStates, load_start_states, save_start_states
from utils.errors import UserError
from utils.io import checkpoints
from utils.io.checkpoints import Header
from utils.io.files import sha256_of
from utils.sim.agent import Agent
from utils.sim.env import drive_episode, make_environment

DREAM, REAL = "envs:DreamCarRacing-v0", "envs:RealCarRacing-v0"
LATENT, HIDDEN, COMPONENTS = 4, 8, 3
UNBOUNDED = "A Box observation space (minimum|maximum) value is"  # z is unbounded


def start_states_of(counts: dict[str, int], seed: int = 0) -> StartStates:
    rng = np.random.default_rng(seed)

    def group(count: int) -> DreamState:
        z = rng.standard_normal((count, LATENT)).astype(np.float32)
        memory = rng.uniform(-0.9, 0.9, (2, count, HIDDEN)).astype(np.float32)
        return DreamState(z, LSTMState(*memory))

    return StartStates(**{name: group(count) for name, count in counts.items()})


def save_run(folder: Path, rnn: MDNRNN, start_states: StartStates) -> Path:
    """A run folder with a random V, this M and these start states."""
    vae = random_model(lambda: ConvVAE(LATENT, key=jax.random.key(0)), seed=3)
    paths = {name: folder / f"{name}.eqx" for name in ("vae", "rnn", "starts")}
    checkpoints.save(paths["vae"], Header("vae", {"latent": LATENT}, {}, {}, {}), vae)
    inputs = {"vae": sha256_of(paths["vae"])}
    sizes = {"latent": rnn.latent, "hidden": rnn.hidden, "components": rnn.components}
    checkpoints.save(paths["rnn"], Header("rnn", sizes, {}, inputs, {}), rnn)
    save_start_states(paths["starts"], start_states, {**inputs, "rnn": sha256_of(paths["rnn"])})
    return folder


@pytest.fixture(scope="module")
def rnn() -> MDNRNN:
    build = lambda: MDNRNN(LATENT, HIDDEN, COMPONENTS, key=jax.random.key(0))  # noqa: E731
    return random_model(build, seed=0, scale=2.0)


@pytest.fixture(scope="module")
def run_dir(rnn: MDNRNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    start_states = start_states_of({"resets": 2, "on_policy": 3, "others": 5})
    return save_run(tmp_path_factory.mktemp("run"), rnn, start_states)


def random_actions(*shape: int) -> np.ndarray:
    low = np.array([-1, 0, 0])
    return np.random.default_rng(1).uniform(low, 1, (*shape, 3)).astype(np.float32)


@pytest.mark.parametrize("observation", ["latent", "pixels"])
@pytest.mark.parametrize("name", [DREAM, REAL])
def test_gymnasiums_env_checker_passes(run_dir: Path, name: str, observation: str) -> None:
    env = gymnasium.make(name, run_dir=run_dir, observation=observation, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=f".*{UNBOUNDED}")
        warnings.filterwarnings("ignore", message=".*type swig|.*type Swig")
        check_env(env.unwrapped, skip_render_check=name == REAL)
    other = gymnasium.make(DREAM, run_dir=run_dir, observation=observation)
    assert env.observation_space == other.observation_space
    assert env.action_space == other.action_space
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3 and picture.std() > 0
    env.close()


def test_a_dream_equals_a_loop(run_dir: Path, rnn: MDNRNN) -> None:
    env = gymnasium.make(DREAM, run_dir=run_dir, temperature=1.3, max_episode_steps=20).unwrapped
    observation, _ = env.reset(seed=7)
    z, hidden = observation[:LATENT].astype(float), observation[LATENT:].astype(float)
    cell = np.asarray(env.state.dream.memory.cell[0], np.float64)
    key = env.state.key[0]
    for action in random_actions(8):
        observation, reward, failed, _, info = env.step(action)
        key, noise_key, outcome_key = jax.random.split(key, 3)
        noise = [np.asarray(n, float) for n in mixture_noise(noise_key, (LATENT,))]
        hidden, cell = lstm_step(rnn, hidden, cell, z, action)
        foreseen = foresee(rnn, hidden, z)
        z = sample(foreseen, *noise, 1.3)
        np.testing.assert_allclose(observation, [*z, *hidden], rtol=1e-4, atol=1e-5)
        assert info["end_probability"] == pytest.approx(foreseen.end, rel=1e-4)
        assert failed == (float(jax.random.uniform(outcome_key)) < foreseen.end)
        assert reward == pytest.approx(-100 if failed else foreseen.reward, rel=1e-4)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_vector_equals_gymnasiums_sync_vector_of_single_dreams(
    run_dir: Path, mode: AutoresetMode
) -> None:
    count, arguments = 3, {"run_dir": run_dir, "max_episode_steps": 6}
    ours = gymnasium.make_vec(
        DREAM, count, "vector_entry_point", autoreset_mode=mode.value, **arguments
    )
    theirs = SyncVectorEnv(
        [lambda: gymnasium.make(DREAM, **arguments)] * count, autoreset_mode=mode
    )
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    compare(ours.reset(seed=11), theirs.reset(seed=11))
    ends = 0
    for actions in random_actions(25, count):
        results = ours.step(actions), theirs.step(actions)
        compare(*results)
        ended = results[0][2] | results[0][3]
        ends += ended.sum()
        if mode == AutoresetMode.DISABLED and ended.any():
            options = [{"reset_mask": ended.copy()} for _ in range(2)]
            compare(ours.reset(options=options[0]), theirs.reset(options=options[1]))
    assert ends >= 2 * count


def compare(ours: object, theirs: object) -> None:
    """The same structure, and the same numbers up to rounding."""
    if isinstance(theirs, dict):
        assert set(ours) >= set(theirs)
        for name in theirs:
            compare(ours[name], theirs[name])
    elif isinstance(theirs, tuple):
        for one, other in zip(ours, theirs, strict=True):
            compare(one, other)
    elif theirs.dtype == object:
        for one, other in zip(ours, theirs, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                compare(one, other)
    else:
        assert theirs.dtype == ours.dtype or theirs.dtype == np.float64
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_seed_gives_the_same_dream_and_actions_are_clipped(run_dir: Path) -> None:
    envs = gymnasium.make_vec(DREAM, 2, run_dir=run_dir, vectorization_mode="vector_entry_point")
    first, _ = envs.reset(seed=3)
    again, _ = envs.reset(seed=[3, 4])
    np.testing.assert_array_equal(first, again)
    wild = envs.step(np.array([[-7, -7, -7], [7, 7, 7]], np.float32))
    envs.reset(seed=3)
    tame = envs.step(np.array([[-1, 0, 0], [1, 1, 1]], np.float32))
    np.testing.assert_array_equal(wild[0], tame[0])
    envs.reset(seed=3)
    np.testing.assert_array_equal(envs.reset()[0], envs.reset(seed=3) and envs.reset()[0])
    with pytest.raises(ValueError, match="1 seeds for 2 dreams"):
        envs.reset(seed=[3])


def both_environments(run_dir: Path) -> list[gymnasium.Env]:
    names = (DREAM, REAL)
    return [gymnasium.make(name, run_dir=run_dir, disable_env_checker=True) for name in names]


def test_bad_actions_are_refused_with_their_shape_and_value(run_dir: Path) -> None:
    vector = gymnasium.make_vec(DREAM, 2, run_dir=run_dir)
    for env, shape in [*((env, (3,)) for env in both_environments(run_dir)), (vector, (2, 3))]:
        env.reset(seed=0)
        nan = np.zeros(shape, np.float32)
        nan[..., 1] = np.nan
        with pytest.raises(ValueError, match=r"must not contain NaN: .*nan"):
            env.step(nan)
        for wrong in (np.zeros(2), np.zeros((4, 3)), 0.5):
            with pytest.raises(ValueError, match=r"must have shape \(.*3.*\), not \("):
                env.step(wrong)
        for wrong in ("left", {"steer": 1}):
            with pytest.raises(ValueError, match=r"must be numbers of shape"):
                env.step(wrong)
        with pytest.raises(ValueError):
            env.step(None)
        first = env.step(np.zeros(shape, np.float32))[0]
        assert np.isfinite(first).all()  # a refused action changes nothing
        env.close()


def test_step_and_render_before_reset_are_refused(run_dir: Path) -> None:
    vector = gymnasium.make_vec(DREAM, 2, run_dir=run_dir, render_mode="rgb_array")
    for env in (*(env.unwrapped for env in both_environments(run_dir)), vector):
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(env.action_space.sample())
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.render()
    disabled = gymnasium.make_vec(
        DREAM, 2, run_dir=run_dir, max_episode_steps=1, autoreset_mode="Disabled"
    )
    disabled.reset(seed=0)
    disabled.step(disabled.action_space.sample())
    with pytest.raises(gymnasium.error.ResetNeeded):
        disabled.step(disabled.action_space.sample())


def test_every_accepted_seed_is_a_seed_of_its_own(run_dir: Path) -> None:
    env = gymnasium.make(DREAM, run_dir=run_dir).unwrapped
    vector = gymnasium.make_vec(DREAM, 2, run_dir=run_dir)

    def keys(seed: int) -> tuple[int, ...]:
        env.reset(seed=seed)
        return tuple(np.asarray(jax.random.key_data(env.state.key))[0].tolist())

    seeds = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
    assert len({keys(seed) for seed in seeds}) == len(seeds)
    assert keys(np.int64(7)) == keys(7)
    for wrong in (2**32, 2**63, 2**70, -1):
        with pytest.raises(ValueError, match=f"between 0 and 4294967295, not {wrong}"):
            env.reset(seed=wrong)
        with pytest.raises(ValueError, match="between 0 and 4294967295"):
            vector.reset(seed=[0, wrong])
    with pytest.raises(ValueError, match="between 0 and 4294967295, not 4294967296"):
        vector.reset(seed=2**32 - 1)  # the second dream's seed would be 2**32
    with pytest.raises(ValueError, match="must be an integer"):
        vector.reset(seed=1.5)


@pytest.mark.parametrize("name", [DREAM, REAL])
def test_forked_workers_fail_with_one_line_and_spawned_ones_work(run_dir: Path, name: str) -> None:
    program = f"""
import gymnasium, numpy as np
if __name__ == "__main__":
    def run(context):
        options = dict(vectorization_mode="async", vector_kwargs={{"context": context}})
        envs = gymnasium.make_vec({name!r}, 2, run_dir={str(run_dir)!r}, **options)
        try:
            envs.reset(seed=3)
            return envs.step(envs.action_space.sample())[0]
        finally:
            envs.close(terminate=True)
    try:
        run("fork")
    except RuntimeError as error:
        print("refused:", error)
    print(run("spawn").shape)
"""
    script = run_dir / "asynchronous.py"
    script.write_text(program)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    refused, shape = done.stdout.strip().splitlines()
    assert refused.startswith("refused: JAX cannot run in a process forked from one")
    assert shape == f"(2, {LATENT + HIDDEN})"


FORKED_AFTER = {
    "its own use": "run_all = [use(name) for name in NAMES] + [use_vector()]",
    "another's use": """
import jax, jax.numpy as jnp
jax.jit(lambda x: x @ x)(jnp.ones((300, 300))).block_until_ready()
run_all = [lambda: gymnasium.make(NAMES[0], run_dir=RUN_DIR).reset(seed=0)]
""",
}


@pytest.mark.parametrize("before", FORKED_AFTER)
def test_an_environment_in_a_forked_process_fails_at_once(run_dir: Path, before: str) -> None:
    program = f"""
import multiprocessing, gymnasium, numpy as np
NAMES, RUN_DIR, ACTION = {(DREAM, REAL)!r}, {str(run_dir)!r}, np.zeros(3, np.float32)
def use(name):
    environment = gymnasium.make(name, run_dir=RUN_DIR)
    environment.reset(seed=0)
    return lambda: environment.step(ACTION)
def use_vector():
    environments = gymnasium.make_vec(NAMES[0], 2, run_dir=RUN_DIR)
    return lambda: environments.reset(seed=0)
{FORKED_AFTER[before]}
for run in run_all:
    def report():
        try:
            run()
        except RuntimeError as error:
            print("refused:", error)
    child = multiprocessing.get_context("fork").Process(target=report)
    child.start()
    child.join(60)
    child.kill()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == (3 if before == "its own use" else 1)
    assert all("refused: JAX cannot run in a process forked" in line for line in said)


def test_64_bit_mode_changes_nothing(run_dir: Path) -> None:
    """A user's program may need JAX's 64-bit mode for its own computations."""
    program = f"""
import gymnasium, numpy as np
for environment in (
    gymnasium.make({DREAM!r}, run_dir={str(run_dir)!r}),
    gymnasium.make({REAL!r}, run_dir={str(run_dir)!r}),
    gymnasium.make_vec({DREAM!r}, 2, run_dir={str(run_dir)!r}),
):
    action = np.zeros(environment.action_space.shape, np.float32)
    for values in (environment.reset(seed=1)[0], *environment.step(action)[:2]):
        print(getattr(values, "dtype", ""), np.asarray(values).tobytes().hex())
"""
    found = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "JAX_ENABLE_X64": x64},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for x64 in ("0", "1")
    ]
    assert found[0] == found[1] and found[0].count("float32") == 7  # the dreams' rewards, too


def test_pixels_are_vs_decoding_of_z(run_dir: Path) -> None:
    arguments = {"run_dir": run_dir, "render_mode": "rgb_array"}
    envs = gymnasium.make_vec(DREAM, 2, observation="pixels", **arguments)
    frames, _ = envs.reset(seed=5)
    vae = random_model(lambda: ConvVAE(LATENT, key=jax.random.key(0)), seed=3)
    latents, _ = gymnasium.make_vec(DREAM, 2, **arguments).reset(seed=5)
    expected = 255 * np.asarray(jax.jit(jax.vmap(vae.decode))(latents[:, :LATENT]))
    np.testing.assert_allclose(frames, expected, atol=0.51)
    np.testing.assert_array_equal(np.stack(envs.render()), frames)


def test_sampled_outcomes_average_to_the_expected_reward() -> None:
    logits, u = np.array([-1.0, 0.5]), (np.arange(10_000) + 0.5) / 10_000
    nothing = np.zeros((2, 1, 1), np.float32)
    for logit in logits:
        prediction = Prediction(*[nothing[0]] * 3, jnp.float32(2.5), jnp.float32(logit))
        reward, failed = jax.vmap(sample_outcome, (None, 0))(prediction, u.astype(np.float32))
        end = 1 / (1 + np.exp(-logit))
        assert np.asarray(failed).mean() == pytest.approx(end, abs=2e-4)
        assert np.asarray(reward).mean() == pytest.approx((1 - end) * 2.5 - end * 100, abs=0.02)


def test_shares_are_the_probabilities_of_the_groups() -> None:
    start_states = jax.tree.map(
        jnp.asarray, start_states_of({"resets": 3, "on_policy": 2, "others": 4})
    )
    keys = jax.random.split(jax.random.key(0), 4000)
    starts = jax.jit(jax.vmap(start_states.sample_one, (0, None, None)))(keys, 0.2, 0.75)
    drawn = np.asarray(starts.z)
    found = [np.isin(drawn[:, 0], np.asarray(group.z)[:, 0]).mean() for group in start_states]
    np.testing.assert_allclose(found, [0.2, 0.6, 0.2], atol=0.03)
    # Every start state of a group is drawn, and its z, hidden and cell stay together.
    z, hidden, cell = (
        np.concatenate([np.asarray(x) for x in part])
        for part in zip(*[(g.z, *g.memory) for g in start_states], strict=True)
    )
    row = (drawn[:, None] == z).all(-1).argmax(1)
    assert set(row) == set(range(9))
    np.testing.assert_array_equal(starts.memory.hidden, hidden[row])
    np.testing.assert_array_equal(starts.memory.cell, cell[row])


def test_start_states_survive_saving_and_loading(rnn: MDNRNN, tmp_path: Path) -> None:
    start_states = start_states_of({"resets": 1, "on_policy": 2, "others": 3})
    save_start_states(tmp_path / "starts.eqx", start_states, {"rnn": "abc"})
    header, back = load_start_states(tmp_path / "starts.eqx", rnn)
    assert header.inputs == {"rnn": "abc"}
    jax.tree.map(np.testing.assert_array_equal, back, start_states)


def test_incompatible_files_and_bad_arguments_are_refused(
    run_dir: Path, rnn: MDNRNN, tmp_path: Path
) -> None:
    start_states = start_states_of({"resets": 1, "on_policy": 1, "others": 1})
    other = save_run(tmp_path, constant_rnn(LATENT, HIDDEN, COMPONENTS), start_states)
    (other / "starts.eqx").write_bytes((run_dir / "starts.eqx").read_bytes())
    with pytest.raises(UserError, match=r"starts\.eqx was made with another rnn"):
        load_dream(other)
    (other / "starts.eqx").unlink()
    with pytest.raises(UserError, match=r"starts\.eqx is missing: run train_dream\.py"):
        load_dream(other)
    with pytest.raises(UserError, match=r"no latents in .*run process_data\.py"):
        load_dream(other, data_dir=tmp_path)
    for wrong in ({"observation": "sound"}, {"temperature": 0.0}, {"reset_share": 1.5}):
        with pytest.raises(ValueError):
            load_dream(run_dir, **wrong)
    with pytest.raises(ValueError, match=r"must be one of .* not 'sound'"):
        gymnasium.make(REAL, run_dir=run_dir, observation="sound")


def test_the_real_environment_observes_what_the_agent_observes(run_dir: Path, rnn: MDNRNN) -> None:
    rng = np.random.default_rng(2)
    controller = jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), Controller(LATENT + HIDDEN)
    )
    vae = random_model(lambda: ConvVAE(LATENT, key=jax.random.key(0)), seed=3)
    driven = drive_episode(make_environment(), Agent(vae, rnn, controller), 5, 25, {})
    latent, pixels = (
        gymnasium.make(REAL, run_dir=run_dir, observation=name) for name in ("latent", "pixels")
    )
    observation, _ = latent.reset(seed=5)
    frame, _ = pixels.reset(seed=5)
    for t, action in enumerate(driven.actions):
        np.testing.assert_array_equal(frame, driven.frames[t])
        ours = controller(*map(jnp.asarray, np.split(observation, [LATENT])))
        np.testing.assert_allclose(ours, action, atol=1e-6)
        observation, reward, *_ = latent.step(action)
        frame, again, *_ = pixels.step(action)
        assert np.float32(reward) == np.float32(again) == driven.rewards[t]


def test_gymnasiums_wrappers_work(run_dir: Path) -> None:
    env = gymnasium.make(DREAM, run_dir=run_dir, max_episode_steps=5)
    for wrap in (  # the wrappers of CleanRL's ppo_continuous_action.py
        gymnasium.wrappers.FlattenObservation,
        gymnasium.wrappers.RecordEpisodeStatistics,
        gymnasium.wrappers.ClipAction,
        gymnasium.wrappers.NormalizeObservation,
        gymnasium.wrappers.NormalizeReward,
    ):
        env = wrap(env)
    env.reset(seed=0)
    rewards, ended = [], False
    while not ended:
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        rewards.append(reward)
        ended = terminated or truncated
    assert info["episode"]["l"] == len(rewards) <= 5
    envs = RecordEpisodeStatistics(gymnasium.make_vec(DREAM, 4, run_dir=run_dir))
    envs.reset(seed=0)
    infos = [envs.step(random_actions(4))[4] for _ in range(20)]
    lengths = [info["episode"]["l"][info["_episode"]] for info in infos if "episode" in info]
    assert len(lengths) > 0 and all((length > 0).all() for length in lengths)


def test_the_run_folder_of_a_pipeline_is_enough_for_its_dream(workshop) -> None:
    env = gymnasium.make(DREAM, run_dir=workshop.run_dir)
    from_data = load_dream(workshop.run_dir, data_dir=workshop.data)
    assert isinstance(from_data, Dream)
    kept = env.unwrapped.dream.start_states
    jax.tree.map(np.testing.assert_array_equal, kept, from_data.start_states)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (288,) and observation in env.observation_space


def steering_pays() -> MDNRNN:
    """An M whose hidden state is the last steering and whose reward is one tile times it."""
    rnn = constant_rnn(LATENT, HIDDEN, 2, end_logit=-10.0, log_scale=-2.0)
    weight, bias = np.zeros_like(rnn.cell.weight_ih), np.zeros_like(rnn.cell.bias)
    into, forget, candidate, out = (slice(HIDDEN * i, HIDDEN * (i + 1)) for i in range(4))
    weight[LATENT, candidate] = 1.0  # the row of the steering
    bias[into], bias[forget], bias[out] = 20.0, -20.0, 20.0
    heads = np.zeros_like(rnn.heads.weight)
    heads[:, -2] = 1 / HIDDEN
    return eqx.tree_at(
        lambda r: (r.cell.weight_ih, r.cell.bias, r.heads.weight),
        rnn,
        (weight, bias, heads),
    )


def test_ppo_learns_in_it(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3", reason="pip install -r requirements/extras.txt")
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecMonitor

    from envs.stable_baselines import StableBaselinesEnv

    torch.set_num_threads(1)  # more threads slow a small network down
    run = save_run(
        tmp_path, steering_pays(), start_states_of({"resets": 4, "on_policy": 4, "others": 4})
    )
    steps, envs = 10, 32
    dreams = gymnasium.make_vec(
        DREAM, envs, run_dir=run, max_episode_steps=steps, autoreset_mode="SameStep"
    )
    env = VecMonitor(StableBaselinesEnv(dreams))
    agent = PPO("MlpPolicy", env, n_steps=steps, batch_size=160, learning_rate=3e-3, seed=0)
    before, _ = evaluate_policy(agent, env, n_eval_episodes=64)
    agent.learn(30 * steps * envs)
    after, _ = evaluate_policy(agent, env, n_eval_episodes=64)
    # The best return: full right at every step, which gives tanh(tanh(1)) tiles.
    best = steps * (np.tanh(np.tanh(1.0)) * 1000 / 296 - 0.1)
    assert before < 0.5 * best and 0.8 * best < after <= best
