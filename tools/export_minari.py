"""Give the collected episodes to others, and take theirs: Minari datasets, without loss.

    python -m tools.export_minari --dataset car-racing/collected-v0
    python -m tools.export_minari --dataset car-racing/collected-v0 --read --data-dir data/again

Writes every episode of data/rollouts/ as one dataset of the Farama Foundation's Minari, in HDF5,
compressed to about 1.2 kB a frame; anyone opens it by minari.load_dataset(...). With --read it
writes a dataset that was made so back as rollouts, to the same bytes. Needs `pip install
"minari[hdf5]"`.
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

    dataset: str = setting("car-racing/collected-v0", "name of the dataset in Minari")
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
FRAMES_A_CHUNK = 16  # compressed together: 200 kB, which HDF5 keeps in its cache


def import_minari() -> ModuleType:
    """Minari, or a UserError that says how to get it."""
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError as error:
        raise UserError(f'{error.name} is missing: pip install "minari[hdf5]"') from error
    return minari


@contextlib.contextmanager
def datasets_in(folder: Path) -> Iterator[None]:
    """Have Minari look for datasets in `folder`, and nowhere else."""
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
    """Write a dataset, or read one back."""
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
    """Write all episodes to a folder of its own, which becomes the dataset when it is whole."""
    final, partial = root / settings.dataset, root / ".export"
    if final.exists():
        raise UserError(f"{final} exists already: choose another --dataset, as with -v1 at its end")
    entries = scan_files(settings.data_dir / "rollouts", EPISODE_SCHEMA)
    if not entries:
        raise UserError(f"no episodes in {settings.data_dir / 'rollouts'}: run collect_data.py")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    with datasets_in(partial), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Minari's, on authors and links
        dataset = minari.create_dataset_from_buffers(
            settings.dataset,
            [],
            env="CarRacing-v3",
            observation_space=gymnasium.spaces.Box(0, 255, FRAME_SHAPE, np.uint8),
            description=DESCRIPTION,
            requirements=["gymnasium[box2d]"],
            data_format="hdf5",
            jpeg_encoding=False,  # JPEG loses
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
    # Minari would write the frames uncompressed, 13 times larger; where there is an array
    # already, it appends.
    with h5py.File(storage.data_path / "main_data.hdf5", "a", track_order=True) as file:
        file.create_group(f"episode_{number}").create_dataset(
            "observations",
            shape=(0, *FRAME_SHAPE),
            maxshape=(None, *FRAME_SHAPE),
            chunks=(FRAMES_A_CHUNK, *FRAME_SHAPE),
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
    """Write the episodes of a dataset as rollouts; nothing that is there is changed."""
    try:
        with datasets_in(root):
            storage = minari.load_dataset(settings.dataset).storage
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{root / settings.dataset}: {error}") from error
    with progress(storage.total_episodes, "episode") as bar:
        for number in range(storage.total_episodes):
            try:
                mode, episode = episode_of(storage, number)
                keep(settings.data_dir / "rollouts" / mode / f"{episode.seed}.npz", episode)
            except CorruptFileError as error:
                raise UserError(f"episode {number} of {settings.dataset}: {error}") from error
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise UserError(
                    f"episode {number} of {settings.dataset} is damaged, or not of this "
                    f"project: {reason}"
                ) from error
            bar.update()
    print(f"{settings.data_dir / 'rollouts'}: {storage.total_episodes} episodes")


def episode_of(storage: Any, number: int) -> tuple[str, Episode]:
    """An episode of a dataset, and the mode that it was driven in."""
    (found,), (more,) = storage.get_episodes([number]), storage.get_episode_metadata([number])
    mode = str(more["mode"])
    if mode not in MODES:  # it becomes the name of a folder
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


def keep(path: Path, episode: Episode) -> None:
    """Write an episode file whose contents come from outside: checked before it has its name."""
    with atomic_replace(path) as temporary:
        write_episode(temporary, episode)
        read_episode(temporary)
        if path.exists() and path.read_bytes() != temporary.read_bytes():
            raise UserError(f"{path} is there already, and differs: choose another --data-dir")


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
