"""Export an agent's dream as a web page: drive in it, edit latents, compare it with real drives.

    python -m tools.export_web --open                    # to RUN_DIR/dream, opened in a browser
    python -m tools.export_web --run-dir pretrained --output-dir site

Reads vae.eqx, rnn.eqx and controller.eqx of --run-dir, and drives four validation tracks to record
real frames. Writes a static folder of about 12 MB that any web server can host under any path:
index.html and its scripts (from web/), the weights as float16, the frames as WebP. Takes about a
minute.
"""

import contextlib
import hashlib
import http.server
import io
import re
import webbrowser
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from models.dream import FAILURE_REWARD
from models.evaluation import states_before
from models.layers.lstm import LSTMCell
from models.rnn import STEP_REWARD, TILE_REWARD
from utils import runtime
from utils.data.episodes import ZOOM_STEPS, Episode
from utils.data.splits import VALIDATION
from utils.errors import UserError
from utils.io.files import locked, write_atomically, write_json
from utils.io.hub import require_local
from utils.io.run_folder import AgentFiles, find_agent
from utils.runtime import describe_device, progress
from utils.settings import ReaderSettings, parse, setting
from utils.sim.agent import Agent, encode
from utils.sim.env import ENVIRONMENTS, MAX_STEPS, drive_episode, make_environment
from utils.sim.rollouts import make_driver
from utils.sim.tasks import DriveTask

WEB = Path(__file__).parents[1] / "web"
MANIFEST = "dream.json"
FORMAT = "world-model-dream 1"
SHEET_COLUMNS = 32  # frames per row: 1001 frames make 2048 × 2048 pixels

# Drivers of the recorded episodes, one validation track each, and their names on the page.
DRIVERS = (
    ("on-policy", "the agent"),
    ("recovery", "a script, disturbed"),
    ("on-policy", "the agent"),
    ("aggressive", "a script, too fast"),
)


@dataclass(frozen=True)
class Settings(ReaderSettings):
    """The flags of this script."""

    output_dir: Path | None = setting(None, "folder of the page, by default RUN_DIR/dream")
    steps: int = setting(
        MAX_STEPS,
        "limit of a recorded episode, in steps of 1/50 s",
        minimum=ZOOM_STEPS + 50,
        maximum=MAX_STEPS,
    )
    starts: int = setting(3, "start states of dreams from each recorded episode", minimum=1)
    env: str = setting(
        "fast", "renderer of the tracks: fast, or Gymnasium's own", choices=tuple(ENVIRONMENTS)
    )
    open: bool = setting(False, "serve the page on this machine and open it in a browser")
    port: int = setting(0, "port to serve it on; 0 for any free port", minimum=0, maximum=65535)


@dataclass(frozen=True)
class Recording:
    """A real episode of T steps, with the model's latents and memory."""

    title: str
    episode: Episode
    mu: np.ndarray  # (T+1, latent)
    hidden: np.ndarray  # (T, hidden), before each step
    cell: np.ndarray  # (T, hidden)


class Bundle:
    """The data files of the page. Their names contain their sha256, so caches never mix exports."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tensors: dict[str, dict[str, Any]] = {}
        self.values: list[np.ndarray] = []
        self.sizes: dict[str, int] = {}

    def add(self, name: str, array: Any) -> None:
        """Add a tensor to the weights file, as float16; UserError if a number is too large."""
        with np.errstate(over="ignore"):
            values = np.asarray(array, "<f2")
        if not np.isfinite(values).all():
            raise UserError(f"{name} has numbers that are too large for float16")
        offset = sum(v.size for v in self.values)
        self.tensors[name] = {"shape": values.shape, "offset": offset}
        self.values.append(values)

    def write_weights(self) -> str:
        """Write all tensors to one file; returns its name."""
        return self.write("weights", ".bin", b"".join(v.tobytes() for v in self.values))

    def write_sheet(self, frames: np.ndarray) -> str:
        """Write frames, uint8 (n, 64, 64, 3), as one lossless image; returns its name."""
        rows = -(-len(frames) // SHEET_COLUMNS)
        blank = np.zeros((rows * SHEET_COLUMNS - len(frames), *frames.shape[1:]), np.uint8)
        grid = np.concatenate([frames, blank]).reshape(rows, SHEET_COLUMNS, *frames.shape[1:])
        sheet = grid.swapaxes(1, 2).reshape(rows * frames.shape[1], -1, 3)
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, format="webp", lossless=True)
        return self.write("frames", ".webp", file.getvalue())

    def write(self, stem: str, suffix: str, data: bytes) -> str:
        """Write a file named after its sha256; returns its path relative to the page."""
        name = f"data/{stem}-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"
        write_atomically(self.folder / name, lambda file: file.write(data))
        self.sizes[name] = len(data)
        return name

    def remove_others(self) -> None:
        """Remove the data files of earlier exports, and no other files."""
        for path in (self.folder / "data").iterdir():
            ours = re.fullmatch(r"(weights|frames)-[0-9a-f]{12}\.(bin|webp)", path.name)
            if ours and f"data/{path.name}" not in self.sizes:
                path.unlink()


def main(settings: Settings) -> None:
    """Export the page, and open it with --open."""
    print(describe_device())
    output = settings.output_dir or require_local(settings.run_dir, "--output-dir") / "dream"
    files = find_agent(settings.run_dir, "tools.export_web")
    agent = Agent.load(files)
    if not isinstance(agent.rnn.cell, LSTMCell):
        raise UserError(f"the page knows only the LSTM, not {type(agent.rnn.cell).__name__}")
    if (output / "index.html").exists() and not (output / MANIFEST).exists():
        raise UserError(f"{output} has an index.html of another page: choose another --output-dir")
    with locked(output):
        recordings = record(settings, agent, files)
        export(output, agent, files, recordings, settings.starts)
    if settings.open:
        serve(output, settings.port)


def record(settings: Settings, agent: Agent, files: AgentFiles) -> list[Recording]:
    """Drive the real tracks and run V and M on the episodes."""
    recordings = []
    environment = make_environment(settings.env)
    with progress(len(DRIVERS), "episode", label="driving") as bar:
        for track, (mode, title) in zip(VALIDATION, DRIVERS, strict=False):
            task = DriveTask(track, mode, settings.steps, seed=settings.seed, agent=files)
            episode = drive_episode(environment, make_driver(task), track, settings.steps, {})
            recordings.append(meet(agent, title, episode))
            bar.update()
    environment.close()
    return recordings


def meet(agent: Agent, title: str, episode: Episode) -> Recording:
    """The latents of an episode, and the memory of M before each step."""
    mu = np.stack([encode(agent.vae, frame) for frame in episode.frames])
    states = eqx.filter_jit(states_before)(agent.rnn, mu[:-1], jnp.asarray(episode.actions))
    return Recording(title, episode, mu, np.asarray(states.hidden), np.asarray(states.cell))


def export(
    output: Path, agent: Agent, files: AgentFiles, recordings: list[Recording], starts: int
) -> None:
    """Write the page. The manifest comes last, so an earlier export stays valid until then."""
    bundle = Bundle(output)
    add_models(bundle, agent)
    mu = np.concatenate([recording.mu for recording in recordings])
    bundle.add("latent.mean", mu.mean(axis=0))
    bundle.add("latent.spread", mu.std(axis=0))
    manifest = {
        "format": FORMAT,
        "agent": files.sha256(),
        "sizes": {
            "latent": agent.rnn.latent,
            "hidden": agent.rnn.hidden,
            "components": agent.rnn.components,
        },
        "kernels": [layer.kernel for layer in agent.vae.decoder],
        "reward": {"step": STEP_REWARD, "tile": TILE_REWARD, "failure": FAILURE_REWARD},
        "columns": SHEET_COLUMNS,
        "starts": export_starts(bundle, recordings, starts),
        "episodes": [export_episode(bundle, i, one) for i, one in enumerate(recordings)],
        "weights": bundle.write_weights(),
        "tensors": bundle.tensors,
    }
    pages = [path for path in sorted(WEB.rglob("*")) if path.is_file()]
    for path in pages:
        copy_into(output / path.relative_to(WEB), path)
    write_json(output / MANIFEST, {**manifest, "bytes": bundle.sizes})
    bundle.remove_others()
    report(output, bundle.sizes, sum(path.stat().st_size for path in pages))


def copy_into(target: Path, source: Path) -> None:
    """Copy a file, atomically."""
    write_atomically(target, lambda file: file.write(source.read_bytes()))


def add_models(bundle: Bundle, agent: Agent) -> None:
    """The decoder, M and C, each leaf named by its path: "vae.decoder.0.weight"."""
    parts = {
        "vae": {"from_latent": agent.vae.from_latent, "decoder": agent.vae.decoder},
        "rnn": agent.rnn,
        "controller": agent.controller,
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts):
        bundle.add(jax.tree_util.keystr(path, simple=True, separator="."), leaf)


def export_starts(bundle: Bundle, recordings: list[Recording], count: int) -> dict[str, Any]:
    """Start states of dreams: `count` of the first half of each episode, after the zoom."""
    moments = [
        (recording, int(row))
        for recording in recordings
        for row in np.linspace(ZOOM_STEPS, max(ZOOM_STEPS, len(recording.hidden) // 2), count)
        if row < len(recording.hidden)
    ]
    bundle.add("starts.z", [recording.mu[row] for recording, row in moments])
    bundle.add("starts.hidden", [recording.hidden[row] for recording, row in moments])
    bundle.add("starts.cell", [recording.cell[row] for recording, row in moments])
    frames = np.stack([recording.episode.frames[row] for recording, row in moments])
    return {
        "sheet": bundle.write_sheet(frames),
        "moments": [{"driver": recording.title, "row": row} for recording, row in moments],
    }


def export_episode(bundle: Bundle, index: int, recording: Recording) -> dict[str, Any]:
    """A recorded episode: its frames as a sheet, the rest as tensors "episodes.<index>.*"."""
    episode = recording.episode
    bundle.add(f"episodes.{index}.mu", recording.mu)
    bundle.add(f"episodes.{index}.actions", episode.actions)
    bundle.add(f"episodes.{index}.rewards", episode.rewards)
    return {
        "driver": recording.title,
        "track": episode.seed,
        "steps": len(episode.actions),
        "score": round(episode.score, 1),
        "sheet": bundle.write_sheet(episode.frames),
    }


def report(output: Path, sizes: dict[str, int], page: int) -> None:
    """Print the size of the page."""

    def megabytes(values: Iterable[int]) -> str:
        return f"{sum(values) / 1e6:.1f} MB"

    weights = [size for name, size in sizes.items() if name.endswith(".bin")]
    frames = [size for name, size in sizes.items() if name.endswith(".webp")]
    print(
        f"{output / 'index.html'}: {megabytes([*sizes.values(), page])}, "
        f"of which weights {megabytes(weights)}, frames {megabytes(frames)}"
    )


def serve(folder: Path, port: int) -> None:
    """Serve the folder on this machine until Ctrl-C."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"serving {address} until Ctrl-C", flush=True)
        webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, {}))
