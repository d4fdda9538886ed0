"""A real episode beside the model's reconstructions and dreams: video, image grid and plot."""

import contextlib
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from models.dream import DreamState, open_loop
from models.evaluation import states_before
from models.rnn import MDNRNN, mixture_log_likelihood, mixture_noise
from models.vae import ConvVAE
from utils.data.episodes import Episode
from utils.errors import UserError
from utils.io.files import atomic_replace, write_atomically
from utils.viz.figures import save_figure, save_image, tile_images, to_uint8

FRAMES_PER_SECOND = 50  # as in the environment
SCALE = 4  # a frame of 64 pixels is 256 pixels wide
TITLES = ("Real", "Reconstruction", "Dream, one step", "Dream, open loop")
GRID_COLUMNS = 8
PANEL_TITLES = ("Real", "Reconstruction", "Dream")
WEBP_SCALE, WEBP_FRAME_STEP = 3, 3  # of 64 pixels; every third frame, 17 per second


class Replay(NamedTuple):
    """The model's reconstructions, predictions and dream of an episode of T steps.

    Row t of a prediction is about frame t + 1.
    """

    reconstructed: np.ndarray  # (T+1, 64, 64, 3), decoded mu
    predicted: np.ndarray  # (T, 64, 64, 3), decoded mean of the next latent
    dreamed: np.ndarray  # (T − start, 64, 64, 3), decoded open-loop dream from frame `start`
    start: int
    surprise: np.ndarray  # (T), negative log-likelihood in nats per latent dimension
    predicted_reward: np.ndarray  # (T), points
    dreamed_reward: np.ndarray  # (T − start), points


@eqx.filter_jit
def encode_frames(vae: ConvVAE, frames: UInt8[Array, "n 64 64 3"]) -> Float[Array, "n latent"]:
    """mu of every frame."""
    return jax.lax.map(lambda frame: vae.encode(frame)[0], frames, batch_size=64)


@eqx.filter_jit
def _decode(vae: ConvVAE, z: Float[Array, "n latent"]) -> Float[Array, "n 64 64 3"]:
    return jax.lax.map(vae.decode, z, batch_size=64)


def replay(vae: ConvVAE, rnn: MDNRNN, episode: Episode, start: int, seed: int = 0) -> Replay:
    """Run V and M on a real episode. The open-loop dream begins at frame `start`."""
    start = min(start, len(episode.actions) - 1)
    mu = encode_frames(vae, jnp.asarray(episode.frames))
    z, actions = mu[:-1], jnp.asarray(episode.actions)
    states = states_before(rnn, z, actions)
    along = rnn.unroll(rnn.initial_state(), z, actions)
    prediction = rnn.predict(along.hidden, z)
    expected = (jnp.exp(prediction.log_weight) * prediction.mean).sum(-2)
    noise = mixture_noise(jax.random.key(seed), (len(actions) - start, rnn.latent))
    begin = DreamState(mu[start], jax.tree.map(lambda s: s[start], states))
    dreamed, dream_prediction = open_loop(rnn, begin, actions[start:], noise)
    return Replay(
        reconstructed=to_uint8(_decode(vae, mu)),
        predicted=to_uint8(_decode(vae, expected)),
        dreamed=to_uint8(_decode(vae, dreamed)),
        start=start,
        surprise=np.asarray(-mixture_log_likelihood(prediction, mu[1:]).mean(-1)),
        predicted_reward=np.asarray(prediction.reward),
        dreamed_reward=np.asarray(dream_prediction.reward),
    )


def panels_at(episode: Episode, replay: Replay, t: int) -> list[np.ndarray]:
    """The four panels of frame t ≥ 1. The dream's panel is grey before frame `replay.start`."""
    grey = np.full_like(episode.frames[0], 96)
    dreamed = replay.dreamed[t - 1 - replay.start] if t > replay.start else grey
    return [episode.frames[t], replay.reconstructed[t], replay.predicted[t - 1], dreamed]


def video_frames(episode: Episode, replay: Replay) -> Iterator[Image.Image]:
    """The images of the video: titles and score above the four panels."""
    width, header = 64 * SCALE * len(TITLES), 24
    score = 0.0
    for t in range(1, len(episode.frames)):
        score += float(episode.rewards[t - 1])
        panels = Image.fromarray(np.concatenate(panels_at(episode, replay, t), axis=1))
        image = Image.new("RGB", (width, 64 * SCALE + header))
        image.paste(panels.resize((width, 64 * SCALE), Image.Resampling.NEAREST), (0, header))
        draw = ImageDraw.Draw(image)
        for column, title in enumerate(TITLES):
            note = f"   step {t}  score {score:.0f}" if column == 0 else ""
            draw.text((column * 64 * SCALE + 8, 6), title + note, fill="white")
        yield image


def write_video(path: Path, episode: Episode, replay: Replay) -> None:
    """Write the four panels side by side as MP4 in real time. Raises UserError."""
    pictures = video_frames(episode, replay)
    first = next(pictures)
    with atomic_replace(path) as temporary:
        # The writer of imageio_ffmpeg forks, which is unsafe with the threads of JAX.
        source = f"-f rawvideo -pix_fmt rgb24 -s {first.width}x{first.height}".split()
        coding = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-f", "mp4"]
        options = ["-r", str(FRAMES_PER_SECOND), "-i", "-", *coding, str(temporary)]
        ffmpeg = _start_ffmpeg(["-y", "-loglevel", "error", *source, *options])
        # ffmpeg may end before it has read all frames; its exit code then says why.
        with contextlib.suppress(BrokenPipeError), ffmpeg:
            assert ffmpeg.stdin is not None
            for image in itertools.chain([first], pictures):
                ffmpeg.stdin.write(image.tobytes())
        if ffmpeg.returncode != 0:
            raise UserError(f"cannot write {path}: ffmpeg ended with code {ffmpeg.returncode}")


def _start_ffmpeg(arguments: list[str]) -> "subprocess.Popen[bytes]":
    """Start ffmpeg, which reads its standard input. Raises UserError."""
    remedy = "no video is written. Set IMAGEIO_FFMPEG_EXE to an ffmpeg that runs"
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"ffmpeg is not installed, {remedy}") from error
    try:
        return subprocess.Popen([program, *arguments], stdin=subprocess.PIPE)
    except OSError as error:
        raise UserError(f"cannot start ffmpeg ({program}: {error.strerror}), {remedy}") from error


def write_webp(path: Path, episode: Episode, replay: Replay, seconds: float) -> None:
    """Write real frames, reconstructions and the dream side by side as WebP in real time.

    Args:
        seconds: length of the animation, which begins with the dream.

    The dream gets the first latent, M's memory there, and the agent's later actions.
    """
    first = replay.start + 1
    last = min(len(episode.actions), replay.start + round(seconds * FRAMES_PER_SECOND))
    pictures = [
        add_captions(
            [episode.frames[t], replay.reconstructed[t], replay.dreamed[t - first]],
            f"{(t - replay.start) / FRAMES_PER_SECOND:.1f} s",
        )
        for t in range(first, last + 1, WEBP_FRAME_STEP)
    ]
    pause = 1000 * WEBP_FRAME_STEP // FRAMES_PER_SECOND  # ms
    options = {"duration": pause, "loop": 0, "quality": 60}
    write_atomically(
        path,
        lambda file: pictures[0].save(
            file, "WEBP", save_all=True, append_images=pictures[1:], **options
        ),
    )


def add_captions(panels: list[np.ndarray], note: str) -> Image.Image:
    """The three panels, each uint8 (64, 64, 3), side by side below their captions."""
    size, header = 64 * WEBP_SCALE, 22
    image = Image.new("RGB", (size * len(panels), size + header))
    row = Image.fromarray(np.concatenate(panels, axis=1))
    image.paste(row.resize((image.width, size), Image.Resampling.NEAREST), (0, header))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for column, title in enumerate(PANEL_TITLES):
        draw.text((column * size + 6, 2), title, fill="white", font=font)
    draw.text((image.width - 6, 2), note, fill="white", font=font, anchor="ra")
    return image


def write_grid(path: Path, episode: Episode, replay: Replay) -> None:
    """Write the four panels as rows, at steps spread over the dream, as PNG."""
    steps = np.linspace(replay.start + 1, len(episode.actions), GRID_COLUMNS).astype(int)
    columns = [panels_at(episode, replay, t) for t in steps]
    rows = [np.stack(row) for row in zip(*columns, strict=True)]
    save_image(tile_images(rows), path)


def write_plot(path: Path, episode: Episode, replay: Replay) -> None:
    """Write the score, the rewards and the surprise over the episode as PNG."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    score, reward, surprise = figure.subplots(3, 1, sharex=True)
    steps = np.arange(1, len(episode.rewards) + 1)
    score.plot(steps, np.cumsum(episode.rewards), label="real")
    score.plot(steps, np.cumsum(replay.predicted_reward), label="predicted, one step")
    before = float(episode.rewards[: replay.start].sum())
    dream = before + np.cumsum(replay.dreamed_reward)
    score.plot(steps[replay.start :], dream, "--", label=f"dreamed from step {replay.start}")
    score.set(ylabel="score", title=f"track {episode.seed}: {episode.score:.0f}")
    window = np.ones(8) / 8  # the smoothing that M learns with
    real = np.convolve(episode.rewards, window)[: len(steps)]
    reward.plot(steps, real, label="real, mean of 8 steps")
    reward.plot(steps, replay.predicted_reward, label="predicted")
    reward.set(ylabel="reward a step", ylim=(-1, 3))
    surprise.plot(steps, replay.surprise, lw=0.7)
    surprise.set(ylabel="surprise (nats a dimension)", xlabel="step (1/50 s)")
    for axes in (score, reward):
        axes.legend(fontsize=8)
    for axes in (score, reward, surprise):
        axes.grid(alpha=0.3)
    save_figure(figure, path)
