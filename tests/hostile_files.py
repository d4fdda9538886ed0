"""Invalid and hostile .npz contents, and the small valid files they are made from."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.episodes import FRAME_SHAPE, LATENT_ARRAYS, Episode, step_arrays
from utils.io.npz import MAX_STEPS_ON_FILE

LATENT = 4


def small_episode(steps: int = 3, seed: int = 7) -> Episode:
    """An episode with distinct values, so that a mix-up of arrays is noticed."""
    rng = np.random.default_rng(seed)
    return Episode(
        # Two levels in blocks: the file is small enough to damage at every byte.
        frames=rng.integers(0, 2, (steps + 1, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2),
        actions=rng.random((steps, 3), np.float32),
        rewards=rng.random(steps, np.float32),
        terminated=np.arange(steps) == steps - 1,
        truncated=np.zeros(steps, bool),
        lap_finished=True,
        seed=seed,
        provenance={"mode": "recovery", "settings": {"max_steps": steps}, "agent": None},
    )


def arrays_in(episode: Episode) -> dict[str, Any]:
    """The arrays of an episode file."""
    return {"frames": episode.frames, **step_arrays(episode)}


def latents_in(episode: Episode, vae: str = "abc", latent: int = LATENT) -> dict[str, Any]:
    """The arrays of a latent file of that episode, with noise for latents."""
    origin = {"vae": vae, "mirror": True}
    return {**noise_latents(len(episode.rewards), latent), **step_arrays(episode, origin)}


def noise_latents(steps: int, latent: int = LATENT, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise for the latents of a latent file."""
    rows = np.random.default_rng(seed).standard_normal((4, steps + 1, latent), np.float32)
    return dict(zip(LATENT_ARRAYS, rows, strict=True))


STEPS = 3
NAN = np.array([0, np.nan, 0], np.float32)
# The key of the array that the error must name, and the wrong value that it gets.
WRONG: dict[str, tuple[str, Any]] = {
    "frames of another size": ("frames", np.zeros((STEPS + 1, 96, 96, 3), np.uint8)),
    "as many frames as steps": ("frames", np.zeros((STEPS, *FRAME_SHAPE), np.uint8)),
    "a frame too many": ("frames", np.zeros((STEPS + 2, *FRAME_SHAPE), np.uint8)),
    "no frames": ("frames", np.zeros((0, *FRAME_SHAPE), np.uint8)),
    "frames of floats": ("frames", np.zeros((STEPS + 1, *FRAME_SHAPE), np.float32)),
    "signed frames": ("frames", np.zeros((STEPS + 1, *FRAME_SHAPE), np.int8)),
    "columns first": ("frames", np.zeros((STEPS + 1, *FRAME_SHAPE), np.uint8, order="F")),
    "doubles": ("actions", np.zeros((STEPS, 3))),
    "two controls": ("actions", np.zeros((STEPS, 2), np.float32)),
    "an action too few": ("actions", np.zeros((STEPS - 1, 3), np.float32)),
    "big-endian": ("actions", np.zeros((STEPS, 3), ">f4")),
    "NaN in actions": ("actions", np.full((STEPS, 3), np.nan, np.float32)),
    "steering below -1": ("actions", np.full((STEPS, 3), -1.5, np.float32)),
    "negative gas": ("actions", np.full((STEPS, 3), -0.5, np.float32)),
    "gas above 1": ("actions", np.full((STEPS, 3), 1.5, np.float32)),
    "rewards of two axes": ("rewards", np.zeros((STEPS, 1), np.float32)),
    "no steps": ("rewards", np.zeros(0, np.float32)),
    "too many steps": ("rewards", np.zeros(MAX_STEPS_ON_FILE + 1, np.float32)),
    "NaN in rewards": ("rewards", NAN),
    "infinite reward": ("rewards", np.array([0, np.inf, 0], np.float32)),
    "minus infinite reward": ("rewards", np.array([0, -np.inf, 0], np.float32)),
    "integer rewards": ("rewards", np.zeros(STEPS, np.int32)),
    "terminated as bytes": ("terminated", np.zeros(STEPS, np.uint8)),
    "terminated once": ("terminated", np.bool_(True)),
    "truncated too long": ("truncated", np.zeros(STEPS + 1, bool)),
    "laps as a row": ("lap_finished", np.zeros(1, bool)),
    "laps as a number": ("lap_finished", np.int64(1)),
    "seed as a float": ("seed", np.float64(7)),
    "short seed": ("seed", np.int32(7)),
    "seeds": ("seed", np.array([7, 8])),
    "provenance as bytes": ("provenance", np.bytes_(b"{}")),
    "provenance as a row": ("provenance", np.array(["{}"])),
    "provenance without end": ("provenance", np.str_("{" + " " * 30_000 + "}")),
    "provenance is no JSON": ("provenance", np.str_("{'mode': 'random'}")),
    "provenance is no object": ("provenance", np.str_("[1, 2]")),
    "provenance nested without end": ("provenance", np.str_("[" * 19_000)),
    "dates": ("rewards", np.zeros(STEPS, "datetime64[s]")),
    "records": ("rewards", np.zeros(STEPS, [("x", "f4")])),
}


LATENT_WRONG: dict[str, tuple[str, Any]] = {
    "another latent size": ("mu", np.zeros((STEPS + 1, LATENT + 1), np.float32)),
    "a row too few": ("logvar", np.zeros((STEPS, LATENT), np.float32)),
    "doubles": ("mu", np.zeros((STEPS + 1, LATENT))),
    "NaN": ("logvar", np.full((STEPS + 1, LATENT), np.nan, np.float32)),
}


class Trap:
    """Creates a file at `path` when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def replace_member(path: Path, key: str, data: bytes, **member: Any) -> None:
    """Rewrite the .npz file with `data` as the .npy member of one array."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[f"{key}.npy"] = data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if name == f"{key}.npy":
                info.compress_type = member.get("compress_type", info.compress_type)
            archive.writestr(info, content)


def npy(header: str, data: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """The bytes of an .npy file with any header."""
    text = header.encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
HOSTILE_HEADERS = {
    "more rows than bytes": npy(FLOATS % "3, 3", bytes(4)),
    "fewer rows than bytes": npy(FLOATS % "3, 3", bytes(3 * 3 * 4 + 4)),
    "a petabyte": npy(FLOATS % "10**15,", b""),
    "a petabyte in digits": npy(FLOATS % "1000000000000000, 3", bytes(36)),
    "negative": npy(FLOATS % "-3, 3", bytes(36)),
    "shape of floats": npy(FLOATS % "3.0, 3", bytes(36)),
    "shape of booleans": npy(FLOATS % "True, True", bytes(36)),
    "no header": npy("", bytes(36)),
    "code": npy("__import__('os').abort()", bytes(36)),
    "nested": npy("(" * 9000, bytes(36)),
    "unhashable": npy("{[]: 1}", bytes(36)),
    "another version": npy(FLOATS % "3, 3", bytes(36), (2, 0)),
    "long header": npy((FLOATS % "3, 3") + " " * 60_000, bytes(36)),
    "cut off": npy(FLOATS % "3, 3", b"")[:20],
    "empty": b"",
    "other magic": b"NUMPY" + bytes(100),
    "descr of nonsense": npy(
        "{'descr': 'zz', 'fortran_order': False, 'shape': (3, 3), }", bytes(9)
    ),
    "descr of lists": npy("{'descr': [[]], 'fortran_order': False, 'shape': (3, 3), }", bytes(9)),
    "huge items": npy("{'descr': '<U999999999', 'fortran_order': False, 'shape': (3, 3), }", b""),
}
