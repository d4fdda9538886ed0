"""Convert collected episodes to a Minari dataset, and back, without loss.

    python -m tools.export_minari --dataset car-racing/collected-v0
    python -m tools.export_minari --dataset car-racing/collected-v0 --read --data-dir data/again

Writes all episodes of data/rollouts/ as one dataset in HDF5, compressed to about 1.2 kB a frame.
Open it with minari.load_dataset(...). With --read it writes the episodes of such a dataset to
data/rollouts/, byte-identical. Requires `pip install "minari[hdf5]"`.
"""

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from utils import runtime
from utils.data.episodes import (
    EPISODE_SCHEMA,
    FRAME_SHAPE,
    Episode,
    EpisodeFile,
    read_episode,
    scan_files,
    write_episode,
)
from utils.data.splits import MODES
from utils.errors import UserError
from utils.io.files import atomic_replace, locked
from utils.io.npz import CorruptFileError, CorruptFileLog
from utils.runtime import progress
from utils.settings import CommonSettings, parse, setting


@dataclass(frozen=True)
class Settings(CommonSettings):
    """The flags of this script."""

    dataset: str = setting("car-racing/collected-v0", "id of the Minari dataset")
    datasets_dir: Path | None = setting(
        None, "folder of Minari datasets, by default $MINARI_DATASETS_PATH or ~/.minari/datasets"
    )
    read: bool = setting(False, "read the dataset into --data-dir instead of writing it")


PRESETS: dict[str, dict[str, Any]] = {}
DESCRIPTION = (
    "Drives of Gymnasium's CarRacing-v3. Observations are its 96x96 frames averaged to 64x64 by "
    "area, in integers. The metadata of an episode say how it was driven (mode, provenance) and "
    "whether it ended because the lap was finished (lap_finished); its seed is its track."
)
FRAMES_PER_CHUNK = 16  # 200 kB: HDF5 keeps whole chunks in its cache


def import_minari() -> ModuleType:
    """The minari module; UserError says how to install it."""
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError as error:
        raise UserError(f'{error.name} is missing: pip install "minari[hdf5]"') from error
    return minari


@contextlib.contextmanager
def datasets_in(folder: Path) -> Iterator[None]:
    """Make `folder` Minari's folder of datasets."""
    name = "MINARI_DATASETS_PATH"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def main(settings: Settings) -> None:
    """Write a dataset, or read one."""
    minari = import_minari()
    from minari.storage.datasets_root_dir import get_dataset_path

    root = (settings.datasets_dir or get_dataset_path()).absolute()
    try:
        minari.dataset.minari_dataset.parse_dataset_id(settings.dataset)
    except ValueError as error:
        raise UserError(f"--dataset {settings.dataset}: {error}") from error
    with locked(settings.data_dir):
        if settings.read:
            read_dataset(minari, settings, root)
        else:
            with locked(root):
                write_dataset(minari, settings, root)


def write_dataset(minari: ModuleType, settings: Settings, root: Path) -> None:
    """Write all episodes to a temporary folder, and rename it to the dataset when complete."""
    final, partial = root / settings.dataset, root / ".export"
    if final.exists():
        raise UserError(
            f"{final} already exists: choose another --dataset, for example one that ends in -v1"
        )
    entries = scan_files(settings.data_dir / "rollouts", EPISODE_SCHEMA)
    if not entries:
        raise UserError(f"no episodes in {settings.data_dir / 'rollouts'}: run collect_data.py")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    with datasets_in(partial), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # missing authors and links
        dataset = minari.create_dataset_from_buffers(
            settings.dataset,
            [],
            env="CarRacing-v3",
            observation_space=gymnasium.spaces.Box(0, 255, FRAME_SHAPE, np.uint8),
            description=DESCRIPTION,
            requirements=["gymnasium[box2d]"],
            data_format="hdf5",
            jpeg_encoding=False,  # JPEG is lossy
        )
        with progress(len(entries), "episode") as bar:

            def add(entry: EpisodeFile) -> None:
                add_episode(minari, dataset.storage, entry)
                bar.update()

            CorruptFileLog(len(entries), "not written").read_all(entries, add)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial / settings.dataset, final)
    shutil.rmtree(partial)
    size = sum(path.stat().st_size for path in final.rglob("*")) / 1e6
    print(f"{final}: {len(entries)} episodes, {size:.0f} MB")


def add_episode(minari: ModuleType, storage: Any, entry: EpisodeFile) -> None:
    """Append an episode file to a dataset."""
    import h5py

    episode = read_episode(entry.path)
    number = storage.total_episodes
    # Minari writes frames uncompressed, 13 times larger, but appends to an array that exists.
    with h5py.File(storage.data_path / "main_data.hdf5", "a", track_order=True) as file:
        file.create_group(f"episode_{number}").create_dataset(
            "observations",
            shape=(0, *FRAME_SHAPE),
            maxshape=(None, *FRAME_SHAPE),
            chunks=(FRAMES_PER_CHUNK, *FRAME_SHAPE),
            dtype=np.uint8,
            compression="gzip",
        )
    buffer = minari.data_collector.EpisodeBuffer(
        id=number,
        seed=episode.seed,
        observations=episode.frames,
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=episode.terminated,
        truncations=episode.truncated,
    )
    storage.update_episodes([buffer])
    more = {
        "mode": entry.mode,
        "lap_finished": episode.lap_finished,
        "provenance": json.dumps(episode.provenance, sort_keys=True),
    }
    storage.update_episode_metadata([more], [number])


def read_dataset(minari: ModuleType, settings: Settings, root: Path) -> None:
    """Write the episodes of a dataset to data/rollouts/, without changing existing files."""
    try:
        with datasets_in(root):
            storage = minari.load_dataset(settings.dataset).storage
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{root / settings.dataset}: {error}") from error
    with progress(storage.total_episodes, "episode") as bar:
        for number in range(storage.total_episodes):
            try:
                mode, episode = episode_of(storage, number)
                write_checked(
                    settings.data_dir / "rollouts" / mode / f"{episode.seed}.npz", episode
                )
            except CorruptFileError as error:
                raise UserError(f"episode {number} of {settings.dataset}: {error}") from error
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise UserError(
                    f"episode {number} of {settings.dataset} is damaged, or was not exported by "
                    f"this tool: {reason}"
                ) from error
            bar.update()
    print(f"{settings.data_dir / 'rollouts'}: {storage.total_episodes} episodes")


def episode_of(storage: Any, number: int) -> tuple[str, Episode]:
    """An episode of a dataset and its driving mode."""
    (found,), (more,) = storage.get_episodes([number]), storage.get_episode_metadata([number])
    mode = str(more["mode"])
    if mode not in MODES:  # it becomes a folder name
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    return mode, Episode(
        frames=found["observations"],
        actions=found["actions"],
        rewards=found["rewards"],
        terminated=found["terminations"],
        truncated=found["truncations"],
        lap_finished=bool(more["lap_finished"]),
        seed=int(more["seed"]),
        provenance=json.loads(more["provenance"]),
    )


def write_checked(path: Path, episode: Episode) -> None:
    """Write an episode from outside this project; the file gets its name only if it is valid."""
    with atomic_replace(path) as temporary:
        write_episode(temporary, episode)
        read_episode(temporary)
        if path.exists() and path.read_bytes() != temporary.read_bytes():
            raise UserError(f"{path} already exists and differs: choose another --data-dir")


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
