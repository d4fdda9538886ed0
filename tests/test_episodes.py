"""The data contract: episodes are read back as written, and other files are refused by name.

Over 300 lines: every kind of damage is tried on the same two files.
"""

import io
import json
import math
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import (
    FLOATS,
    HOSTILE_HEADERS,
    LATENT,
    LATENT_WRONG,
    STEPS,
    WRONG,
    Trap,
    arrays_in,
    latents_in,
    npy,
    replace_member,
    small_episode,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from utils.data.episodes import (
    EPISODE_SCHEMA,
    FRAME_SHAPE,
    Episode,
    dataset_fingerprint,
    find_latents,
    latent_schema,
    read_episode,
    scan_files,
    step_arrays,
    write_episode,
)
from utils.data.splits import HOLD_OUT_REMAINDER, MODES
from utils.errors import UserError
from utils.io.npz import MAX_STEPS_ON_FILE, CorruptFileError, read_arrays, write_arrays

# One folder serves all examples of a property: every example overwrites its file.
REUSE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
provenances = st.dictionaries(st.text(max_size=8), json_values, max_size=4)


def array(
    dtype: type, shape: tuple[int, ...], low: Any = None, high: Any = None
) -> st.SearchStrategy:
    """Finite arrays of a dtype and shape, between `low` and `high` where they are given."""
    elements: dict[str, Any] = {}
    if dtype is np.float32:
        elements = {"allow_nan": False, "allow_infinity": False}
    if low is not None:
        elements |= {"min_value": low, "max_value": high}
    return arrays_of.arrays(dtype, shape, elements=elements or None)


@st.composite
def episodes(draw: Any) -> Episode:
    steps = draw(st.integers(1, 7))
    pixels = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Episode(
        frames=pixels.integers(0, 256, (steps + 1, *FRAME_SHAPE), np.uint8),
        actions=np.concatenate(
            [
                draw(array(np.float32, (steps, 1), -1, 1)),
                draw(array(np.float32, (steps, 2), 0, 1)),
            ],
            axis=1,
        ),
        rewards=draw(array(np.float32, (steps,))),
        terminated=draw(array(np.bool_, (steps,))),
        truncated=draw(array(np.bool_, (steps,))),
        lap_finished=draw(st.booleans()),
        seed=draw(st.integers(0, 2**63 - 1)),
        provenance=draw(provenances),
    )


def same(one: Episode, other: Episode) -> bool:
    names = ("frames", "actions", "rewards", "terminated", "truncated")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return (
        all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
        and one.lap_finished is other.lap_finished
        and (one.seed, one.provenance) == (other.seed, other.provenance)
    )


def refusal(path: Path) -> str:
    """What read_episode says of a file that it must refuse; it begins with the file's name."""
    with pytest.raises(CorruptFileError) as caught:
        read_episode(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@REUSE
@given(episode=episodes())
def test_what_is_written_is_read_and_twice_gives_the_same_bytes(
    tmp_path: Path, episode: Episode
) -> None:
    write_episode(tmp_path / "1.npz", episode)
    write_episode(tmp_path / "2.npz", episode)
    assert same(read_episode(tmp_path / "1.npz"), episode)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


def test_numpy_reads_our_files(tmp_path: Path) -> None:
    episode = small_episode()
    write_episode(tmp_path / "7.npz", episode)
    with np.load(tmp_path / "7.npz", allow_pickle=False) as file:
        assert set(file) == set(EPISODE_SCHEMA)
        np.testing.assert_array_equal(file["frames"], episode.frames)
        assert json.loads(str(file["provenance"])) == episode.provenance


def test_we_read_numpy_s_files(tmp_path: Path) -> None:
    episode = small_episode()
    np.savez_compressed(tmp_path / "7.npz", **arrays_in(episode))
    assert same(read_episode(tmp_path / "7.npz"), episode)


def test_latent_files_are_read_back(tmp_path: Path) -> None:
    arrays = latents_in(small_episode())
    write_arrays(tmp_path / "7.npz", arrays)
    read = read_arrays(tmp_path / "7.npz", latent_schema(LATENT))
    assert list(read) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == np.asarray(value).dtype


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_array_is_refused_by_name(tmp_path: Path, case: str) -> None:
    key, value = WRONG[case]
    path = tmp_path / "7.npz"
    write_arrays(path, {**arrays_in(small_episode(STEPS)), key: value})
    assert refusal(path).startswith(f"{key}: ")


@pytest.mark.parametrize("case", LATENT_WRONG)
def test_a_wrong_latent_array_is_refused_by_name(tmp_path: Path, case: str) -> None:
    key, value = LATENT_WRONG[case]
    path = tmp_path / "7.npz"
    write_arrays(path, {**latents_in(small_episode(STEPS)), key: value})
    with pytest.raises(CorruptFileError, match=f"^{path}: {key}: "):
        read_arrays(path, latent_schema(LATENT))


@pytest.mark.parametrize("key", EPISODE_SCHEMA)
def test_a_missing_array_is_refused_by_name(tmp_path: Path, key: str) -> None:
    arrays = arrays_in(small_episode())
    del arrays[key]
    write_arrays(tmp_path / "7.npz", arrays)
    assert key in refusal(tmp_path / "7.npz")


@pytest.mark.parametrize("name", ["mu", "../../outside", "/etc/passwd", "x" * 5000])
def test_an_unknown_array_is_refused_and_nothing_is_unpacked(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a" / "b"
    write_arrays(folder / "7.npz", {**arrays_in(small_episode()), name: np.zeros(1)})
    text = refusal(folder / "7.npz")
    assert name[:50] in text and len(text) < 400
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", folder, folder / "7.npz"]


def test_control_characters_in_an_array_s_name_are_escaped(tmp_path: Path) -> None:
    write_arrays(tmp_path / "7.npz", {**arrays_in(small_episode()), "a\n\x1b[2Jb": np.zeros(1)})
    assert r"a\n\x1b[2Jb" in refusal(tmp_path / "7.npz")


def test_a_latent_file_is_no_episode_and_an_episode_no_latent_file(tmp_path: Path) -> None:
    write_arrays(tmp_path / "7.npz", latents_in(small_episode()))
    assert "frames" in refusal(tmp_path / "7.npz")
    write_episode(tmp_path / "7.npz", small_episode())
    with pytest.raises(CorruptFileError, match="frames"):
        read_arrays(tmp_path / "7.npz", latent_schema(LATENT))


def test_truncation_at_any_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "7.npz"
    write_episode(path, small_episode())
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """A zip has bytes that mean nothing here (dates, versions); the arrays' are all guarded."""
    path = tmp_path / "7.npz"
    episode = small_episode()
    write_episode(path, episode)
    whole = path.read_bytes()
    guarded = np.zeros(len(whole), bool)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            start = whole.index(member.filename.encode(), member.header_offset)
            start += len(member.filename) + 20  # the zip64 sizes
            # The last bytes only say that the stream ends, after all of the array is there.
            guarded[start : start + member.compress_size - 6] = True
    assert guarded.mean() > 0.4
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position * 5 % 8)
        path.write_bytes(damaged)
        if guarded[position]:
            refusal(path)
            continue
        try:
            assert same(read_episode(path), episode)
        except CorruptFileError as error:
            assert str(path) in str(error)


@REUSE
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8)), min_size=1, max_size=5
    ),
    latent=st.booleans(),
)
def test_bytes_written_over_anywhere_are_refused_or_change_nothing(
    tmp_path: Path, changes: list[tuple[int, bytes]], latent: bool
) -> None:
    path = tmp_path / "7.npz"
    arrays = latents_in(small_episode()) if latent else arrays_in(small_episode())
    contract = latent_schema(LATENT) if latent else EPISODE_SCHEMA
    write_arrays(path, arrays)
    damaged = bytearray(path.read_bytes())
    for position, new in changes:
        position %= len(damaged)
        damaged[position : position + len(new)] = new
    path.write_bytes(damaged)
    try:
        read = read_arrays(path, contract)
    except CorruptFileError:
        return
    for name, value in arrays.items():
        np.testing.assert_array_equal(read[name], value)


@REUSE
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "7.npz").write_bytes(data)
    refusal(tmp_path / "7.npz")


@pytest.mark.parametrize("key", EPISODE_SCHEMA)
def test_pickled_objects_are_refused_and_never_unpickled(tmp_path: Path, key: str) -> None:
    path, mark = tmp_path / "7.npz", tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()  # the trap works
    mark.unlink()
    write_episode(path, small_episode())
    payload = io.BytesIO()
    np.lib.format.write_array(payload, np.array([Trap(mark)] * STEPS, object), allow_pickle=True)
    replace_member(path, key, payload.getvalue())
    assert refusal(path).startswith((f"{key}: ", "ValueError"))
    assert not mark.exists()


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path, mark = tmp_path / "7.npz", tmp_path / "unpickled"
    foreign = io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("readme.txt", "an office document, say")
    plain = io.BytesIO()
    np.save(plain, np.zeros(3))
    for data in (foreign.getvalue(), plain.getvalue(), pickle.dumps(Trap(mark)), b"PK", b""):
        path.write_bytes(data)
        refusal(path)
    assert not mark.exists()
    (tmp_path / "8.npz").mkdir()
    refusal(tmp_path / "8.npz")
    refusal(tmp_path / "none.npz")


@pytest.mark.parametrize("key", ["actions", "rewards", "provenance"])
@pytest.mark.parametrize("case", HOSTILE_HEADERS)
def test_lying_headers_are_refused(tmp_path: Path, case: str, key: str) -> None:
    path = tmp_path / "7.npz"
    write_episode(path, small_episode(STEPS))
    replace_member(path, key, HOSTILE_HEADERS[case])
    assert refusal(path).startswith(f"{key}: ")


def peak_memory(read: Callable[[], Any]) -> int:
    """Bytes that Python and NumPy held at most while `read` ran."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("key", ["frames", "rewards", "provenance"])
def test_zip_bombs_are_refused_before_they_unfold(tmp_path: Path, key: str) -> None:
    path = tmp_path / "7.npz"
    write_episode(path, small_episode(STEPS))
    with zipfile.ZipFile(path) as archive:
        honest = archive.read(f"{key}.npy")
    replace_member(path, key, honest + bytes(100_000_000))
    assert path.stat().st_size < 1_000_000
    assert peak_memory(lambda: refusal(path)) < 20_000_000
    assert refusal(path).startswith(f"{key}: ")


def test_a_header_that_promises_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "7.npz"
    write_episode(path, small_episode(STEPS))
    header = FLOATS.replace("<f4", "|u1") % f"{MAX_STEPS_ON_FILE + 1}, 64, 64, 3"
    replace_member(path, "rewards", npy(FLOATS % f"{MAX_STEPS_ON_FILE},", b""))
    replace_member(path, "frames", npy(header, b""))
    assert peak_memory(lambda: refusal(path)) < 20_000_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused_whole_or_damaged(tmp_path: Path, method: int) -> None:
    path = tmp_path / "7.npz"
    write_episode(path, small_episode(STEPS))
    with zipfile.ZipFile(path) as archive:
        honest = archive.read("frames.npy")
    replace_member(path, "frames", honest, compress_type=method)
    refusal(path)
    data = bytearray(path.read_bytes())
    start = data.index(b"frames.npy") + 20
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "7.npz"
    write_episode(path, small_episode(STEPS))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards.npy", archive.read("rewards.npy"))
    assert "rewards" in refusal(path)


# --- scan -----------------------------------------------------------------------------------------


def write_dataset(folder: Path, seeds: Mapping[str, list[int]]) -> None:
    for mode, numbers in seeds.items():
        for seed in numbers:
            write_episode(folder / mode / f"{seed}.npz", small_episode(seed=seed))


def test_scan_finds_what_is_there_in_order_and_nothing_else(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"recovery": [20, 3], "random": [5]})
    (tmp_path / "recovery" / ".9.npz.77.partial").write_bytes(b"half")
    (tmp_path / "recovery" / ".9.npz").write_bytes(b"half")
    (tmp_path / "recovery" / "notes.txt").write_bytes(b"")
    write_dataset(tmp_path, {"another-mode": [6]})
    entries = scan_files(tmp_path, EPISODE_SCHEMA)
    assert [(entry.mode, entry.seed) for entry in entries] == [
        ("random", 5),
        ("recovery", 20),
        ("recovery", 3),
    ]
    assert {entry.steps for entry in entries} == {3}
    assert entries[0].provenance == small_episode().provenance
    assert [entry.held_out for entry in entries] == [False, False, False]
    write_dataset(tmp_path, {"random": [30 + HOLD_OUT_REMAINDER]})
    assert [entry.seed for entry in scan_files(tmp_path, EPISODE_SCHEMA) if entry.held_out] == [31]


def test_scan_of_nothing_is_nothing(tmp_path: Path) -> None:
    assert scan_files(tmp_path / "none", EPISODE_SCHEMA) == []


def test_one_damaged_file_is_named_and_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path, {"random": [1, 2, 3]})
    bad = tmp_path / "random" / "2.npz"
    bad.write_bytes(bad.read_bytes()[:-100])
    assert [entry.seed for entry in scan_files(tmp_path, EPISODE_SCHEMA)] == [1, 3]
    errors = capsys.readouterr().err
    assert str(bad) in errors and "1 of 3 files left out" in errors
    assert bad.exists()


def test_more_than_one_in_twenty_damaged_is_a_failure(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"random": list(range(40))})
    for seed in (4, 7):
        (tmp_path / "random" / f"{seed}.npz").write_bytes(b"")
    assert len(scan_files(tmp_path, EPISODE_SCHEMA)) == 38  # 5 %, no more
    (tmp_path / "random" / "9.npz").write_bytes(b"")
    with pytest.raises(UserError, match="3 of 40 files are damaged") as caught:
        scan_files(tmp_path, EPISODE_SCHEMA)
    assert str(tmp_path / "random" / "4.npz") in str(caught.value)


def test_latents_are_read_to_the_last_byte_by_a_scan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        arrays = latents_in(small_episode(seed=seed))
        write_arrays(tmp_path / "latents" / "random" / f"{seed}.npz", arrays)
    bad = tmp_path / "latents" / "random" / "2.npz"
    data = bytearray(bad.read_bytes())
    data[data.index(b"mu.npy") + 60] ^= 1
    bad.write_bytes(data)
    assert [entry.seed for entry in find_latents(tmp_path, LATENT, "abc")] == [1]
    assert f"left out: {bad}: " in capsys.readouterr().err


def test_an_entry_reads_only_the_file_that_was_scanned(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"random": [1]})
    (entry,) = scan_files(tmp_path, EPISODE_SCHEMA)
    entry.read(EPISODE_SCHEMA)
    write_episode(entry.path, small_episode(steps=4, seed=1))
    with pytest.raises(CorruptFileError, match="was replaced after this run had begun"):
        entry.read(EPISODE_SCHEMA)


def test_damage_comes_whole_from_a_worker(tmp_path: Path) -> None:
    error = CorruptFileError(tmp_path / "7.npz", "rewards: NaN")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == f"{tmp_path}/7.npz: rewards: NaN"


def test_an_episode_under_another_s_name_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path, {"random": [1, 2]})
    (tmp_path / "random" / "1.npz").rename(tmp_path / "random" / "3.npz")
    assert [entry.seed for entry in scan_files(tmp_path, EPISODE_SCHEMA)] == [2]
    assert "3.npz: seed: 1" in capsys.readouterr().err


@REUSE
@given(
    name=st.sampled_from(
        ["frames", "actions", "rewards", "terminated", "truncated", "provenance", "lap_finished"]
    ),
    position=st.integers(0, 10**6),
)
def test_the_fingerprint_changes_with_any_value(tmp_path: Path, name: str, position: int) -> None:
    folder = tmp_path / "random"
    arrays = {key: np.array(value) for key, value in arrays_in(small_episode()).items()}
    write_arrays(folder / "7.npz", arrays)
    (before,) = scan_files(tmp_path, EPISODE_SCHEMA)
    write_arrays(folder / "7.npz", arrays)
    assert scan_files(tmp_path, EPISODE_SCHEMA) == [before]
    if name == "provenance":
        arrays[name] = np.str_(str(arrays[name]).replace("recovery", "RECOVERY"))
    else:
        flat = arrays[name].reshape(-1)
        index = position % flat.size
        flat[index] = not flat[index] if flat.dtype == bool else flat[index] + 1
    write_arrays(folder / "7.npz", arrays)
    (after,) = scan_files(tmp_path, EPISODE_SCHEMA)
    assert after.fingerprint != before.fingerprint
    assert dataset_fingerprint([after]) != dataset_fingerprint([before])


def test_the_dataset_s_fingerprint_is_of_the_set(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"random": [1, 2], "recovery": [1]})
    one, two, three = scan_files(tmp_path, EPISODE_SCHEMA)
    whole = dataset_fingerprint([one, two, three])
    assert dataset_fingerprint([three, one, two]) == whole
    assert len({whole, dataset_fingerprint([one, two]), dataset_fingerprint([two, three])}) == 3
    moved = tmp_path / "aggressive"
    os.rename(tmp_path / "recovery", moved)
    assert dataset_fingerprint(scan_files(tmp_path, EPISODE_SCHEMA)) != whole


def test_latents_of_another_vae_are_refused_with_the_step_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no latents in .*run process_data.py"):
        find_latents(tmp_path, LATENT, "abc")
    for seed, vae in ((1, "abc"), (2, "abc"), (3, "other")):
        write_arrays(
            tmp_path / "latents" / "random" / f"{seed}.npz",
            latents_in(small_episode(seed=seed), vae),
        )
    with pytest.raises(UserError, match=r"1 latent files .*3\.npz: run process_data.py"):
        find_latents(tmp_path, LATENT, "abc")
    (tmp_path / "latents" / "random" / "3.npz").unlink()
    assert [entry.seed for entry in find_latents(tmp_path, LATENT, "abc")] == [1, 2]


def test_mirror_images_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "latents" / "random" / "1.npz"
    arrays = latents_in(small_episode(seed=1))
    empty = {f"mirror_{name}": arrays[name][:0] for name in ("mu", "logvar")}
    plain = step_arrays(small_episode(seed=1), {"vae": "abc", "mirror": False})
    write_arrays(path, {**arrays, **empty, **plain})
    assert read_arrays(path, latent_schema(LATENT))["mirror_mu"].shape == (0, LATENT)
    assert [entry.seed for entry in find_latents(tmp_path, LATENT, "abc")] == [1]
    with pytest.raises(UserError, match=r"1 latent files .*1\.npz: .* without --no-mirror"):
        find_latents(tmp_path, LATENT, "abc", mirror=True)
    write_arrays(path, arrays)
    assert [entry.seed for entry in find_latents(tmp_path, LATENT, "abc", mirror=True)] == [1]


def test_modes_are_folder_names() -> None:
    assert MODES == ("random", "iterative", "recovery", "aggressive", "on-policy")
    assert math.prod(FRAME_SHAPE) == 64 * 64 * 3
