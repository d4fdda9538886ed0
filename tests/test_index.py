"""The index beside episode files: what it saves a scan, and when it is not believed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hostile_files import LATENT, latents_in, small_episode
from scripts import ROOT, TIMEOUT

import utils.data.episodes
import utils.io.index
from utils.data.episodes import (
    EPISODE_SCHEMA,
    EpisodeFile,
    find_latents,
    latent_schema,
    scan_files,
    scan_latents,
    update_index,
    write_episode,
)
from utils.io.index import INDEX_NAME, list_files, read_index, write_index
from utils.io.npz import CorruptFileError, write_arrays

LATENT_FILES = latent_schema(LATENT), None


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that scans have opened so far."""
    names: list[str] = []
    open_archive = utils.data.episodes.open_archive

    def note(path: Path, schema: Iterable[str]) -> object:
        names.append(path.name)
        return open_archive(path, schema)

    monkeypatch.setattr(utils.data.episodes, "open_archive", note)
    return names


@pytest.fixture
def without_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once: a test need not wait for two seconds."""
    monkeypatch.setattr(utils.io.index, "TICK_NS", 0)


@pytest.fixture
def indexed(tmp_path: Path, without_ticks: None, opened: list[str]) -> Path:
    """A folder of three indexed episodes."""
    for mode, seed in (("random", 1), ("random", 2), ("recovery", 3)):
        write_episode(tmp_path / mode / f"{seed}.npz", small_episode(seed=seed))
    update_index(tmp_path, EPISODE_SCHEMA)
    time.sleep(0.02)  # a tick of this file system: what changes from now on gets another time
    opened.clear()
    return tmp_path


def scan(folder: Path) -> list[EpisodeFile]:
    return scan_files(folder, EPISODE_SCHEMA)


def scan_all(folder: Path) -> list[EpisodeFile]:
    """A scan without the index."""
    index = folder / INDEX_NAME
    aside = index.rename(folder / "aside") if index.is_file() else None
    entries = scan(folder)
    if aside is not None:
        aside.rename(index)
    return entries


def test_a_scan_opens_only_what_is_not_indexed(indexed: Path, opened: list[str]) -> None:
    expected = scan_all(indexed)
    opened.clear()
    assert scan(indexed) == expected and [entry.seed for entry in expected] == [1, 2, 3]
    assert [entry.provenance for entry in scan(indexed)] == [small_episode().provenance] * 3
    assert opened == []
    write_episode(indexed / "random" / "4.npz", small_episode(seed=4))
    assert [entry.seed for entry in scan(indexed)] == [1, 2, 4, 3]
    assert opened == ["4.npz"]
    update_index(indexed, EPISODE_SCHEMA)
    opened.clear()
    (indexed / "random" / "1.npz").unlink()
    assert [entry.seed for entry in scan(indexed)] == [2, 4, 3]
    assert opened == []


def test_an_index_without_news_is_not_written_again(indexed: Path) -> None:
    before = (indexed / INDEX_NAME).stat().st_ino
    update_index(indexed, EPISODE_SCHEMA)
    assert (indexed / INDEX_NAME).stat().st_ino == before


def test_nothing_is_written_for_a_folder_that_is_missing_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        update_index(tmp_path / name, EPISODE_SCHEMA)
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


# --- files that changed ---------------------------------------------------------------------------


def same_size(path: Path) -> None:
    """Other rewards in a file of as many bytes, written in place, with the times of the old one."""
    status, size = path.stat(), path.stat().st_size
    for seed in range(1000):
        other = path.with_name("other.npz")
        episode = small_episode(seed=seed)
        write_episode(other, type(episode)(**{**vars(episode), "seed": int(path.stem)}))
        data = other.read_bytes()
        other.unlink()
        if len(data) == size and data != path.read_bytes():
            path.write_bytes(data)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            return
    raise AssertionError("no other episode has as many bytes")


def longer(path: Path) -> None:
    write_episode(path, small_episode(steps=4, seed=int(path.stem)))


def later(path: Path) -> None:
    os.utime(path)


def copied(path: Path) -> None:
    """The same bytes and times in another inode."""
    status, data = path.stat(), path.read_bytes()
    path.rename(path.with_name("aside"))
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [same_size, longer, later, copied])
def test_a_changed_file_is_read_again(
    indexed: Path, opened: list[str], change: Callable[[Path], None]
) -> None:
    change(indexed / "random" / "2.npz")
    assert scan(indexed) == scan_all(indexed)
    opened.clear()
    scan(indexed)
    assert opened == ["2.npz"]


def test_a_file_that_just_changed_is_not_indexed(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could change again within one tick of the clock, and keep its size and times."""
    write_episode(tmp_path / "random" / "1.npz", small_episode(seed=1))
    update_index(tmp_path, EPISODE_SCHEMA)
    stamps = list_files(tmp_path, ["random"])
    same_size(tmp_path / "random" / "1.npz")
    # As on a file system with a coarse clock: the stamp is still that of the first bytes.
    monkeypatch.setattr(utils.data.episodes, "list_files", lambda *arguments: stamps)
    opened.clear()
    assert scan(tmp_path) == scan_all(tmp_path)
    assert opened == ["1.npz", "1.npz"]


def test_a_settled_file_is_indexed(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils.io.index, "TICK_NS", 300_000_000)
    write_episode(tmp_path / "random" / "1.npz", small_episode(seed=1))
    time.sleep(0.4)
    write_episode(tmp_path / "random" / "2.npz", small_episode(seed=2))
    update_index(tmp_path, EPISODE_SCHEMA)
    opened.clear()
    assert [entry.seed for entry in scan(tmp_path)] == [1, 2]
    assert opened == ["2.npz"]


def test_a_file_from_the_future_is_always_read(indexed: Path, opened: list[str]) -> None:
    """Another machine wrote it by a clock ahead of this one's. Its time says nothing."""
    path = indexed / "random" / "2.npz"
    future = time.time_ns() + 3600 * 10**9
    os.utime(path, ns=(future, future))
    update_index(indexed, EPISODE_SCHEMA)
    opened.clear()
    assert [entry.seed for entry in scan(indexed)] == [1, 2, 3]
    assert opened == ["2.npz"]


def test_the_clock_of_this_machine_does_not_matter(
    tmp_path: Path, without_ticks: None, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    write_episode(tmp_path / "random" / "1.npz", small_episode(seed=1))
    update_index(tmp_path, EPISODE_SCHEMA)
    opened.clear()
    assert [entry.seed for entry in scan(tmp_path)] == [1]
    assert opened == []


# --- damage ---------------------------------------------------------------------------------------


def test_a_corrupt_file_is_named_by_every_scan(
    indexed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = indexed / "random" / "2.npz"
    bad.write_bytes(bad.read_bytes()[:-100])
    update_index(indexed, EPISODE_SCHEMA)
    assert str(bad) not in capsys.readouterr().err
    for _ in range(2):
        assert [entry.seed for entry in scan(indexed)] == [1, 3]
        errors = capsys.readouterr().err
        assert errors.count(str(bad)) == 1 and "1 of 3 files left out" in errors


def test_damage_under_an_unchanged_stamp_is_found_where_the_file_is_read(
    tmp_path: Path, without_ticks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk lost a bit: the next scan leaves the file out, as if it had never been indexed."""
    for seed in (1, 2):
        path = tmp_path / "latents" / "random" / f"{seed}.npz"
        write_arrays(path, latents_in(small_episode(seed=seed)))
    update_index(tmp_path / "latents", *LATENT_FILES)
    rules = repr((sorted(LATENT_FILES[0].items()), None))
    rows = read_index(tmp_path / "latents", rules, list_files(tmp_path / "latents", ["random"]))
    assert len(rows) == 2
    bad = tmp_path / "latents" / "random" / "2.npz"
    data = bytearray(bad.read_bytes())
    data[data.index(b"mu.npy") + 60] ^= 1
    bad.write_bytes(data)
    with open(tmp_path / "latents" / INDEX_NAME, "wb") as file:  # with the stamp of these bytes
        stamps = list_files(tmp_path / "latents", ["random"])
        write_index(file, rules, stamps, rows, time.time_ns() + 10**9)
    one, two = find_latents(tmp_path, LATENT, "abc")
    time.sleep(0.02)  # a tick of this file system
    one.read(latent_schema(LATENT))
    assert "left out" not in capsys.readouterr().err
    with pytest.raises(CorruptFileError, match=r"2\.npz: mu: "):
        two.read(latent_schema(LATENT))
    assert find_latents(tmp_path, LATENT, "abc") == [one]
    assert f"left out: {bad}: mu: " in capsys.readouterr().err


def test_damage_in_a_read_only_folder_is_found_too(
    indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "read-only")

    monkeypatch.setattr(os, "utime", refuse)
    entry = scan(indexed)[0]
    entry.path.write_bytes(b"")
    with pytest.raises(CorruptFileError, match=r"1\.npz"):
        entry.read(EPISODE_SCHEMA)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def with_another_digit(path: Path) -> None:
    """Still JSON: only the digest can tell."""
    data = path.read_bytes()
    start = data.index(b'"random/2.npz":[')
    position = data.index(b"],", start) - 400
    while not chr(data[position]).isdigit():
        position += 1
    digit = b"1" if data[position : position + 1] != b"1" else b"2"
    path.write_bytes(data[:position] + digit + data[position + 1 :])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_other_bytes(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def of_another_version(path: Path) -> None:
    rewrite(path, json.loads(path.read_bytes().partition(b"\n")[2]), utils.io.index.VERSION + 1)


def nested(path: Path) -> None:
    rewrite(path, "[" * 20_000)


def of_a_list(path: Path) -> None:
    rewrite(path, [1])


def of_short_rows(path: Path) -> None:
    rewrite(path, {"random/2.npz": [1]})


def huge(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(1 << 40)


def rewrite(path: Path, content: object, version: int = utils.io.index.VERSION) -> None:
    """An index with a valid digest."""
    body = (content if isinstance(content, str) else json.dumps(content)).encode()
    rules = repr((sorted(EPISODE_SCHEMA.items()), utils.data.episodes.SCANNED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils.io.index, "VERSION", version)
        path.write_bytes(utils.io.index._digest_line(rules, body) + body)


@pytest.mark.parametrize(
    "damage",
    [
        *(truncated, with_another_digit, empty, of_other_bytes, a_pipe, a_link_to_itself),
        *(of_another_version, nested, of_a_list, of_short_rows, huge),
    ],
)
def test_a_damaged_index_is_not_believed_and_is_replaced(
    indexed: Path, opened: list[str], damage: Callable[[Path], None]
) -> None:
    expected = scan(indexed)
    assert opened == []
    damage(indexed / INDEX_NAME)
    assert scan(indexed) == expected
    assert sorted(opened) == ["1.npz", "2.npz", "3.npz"]  # threads open them
    update_index(indexed, EPISODE_SCHEMA)
    opened.clear()
    assert scan(indexed) == expected
    assert opened == []


def test_an_index_serves_only_scans_by_the_same_rules(
    indexed: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    scan_files(indexed, EPISODE_SCHEMA, None)
    assert sorted(opened) == ["1.npz", "2.npz", "3.npz"]
    latents = indexed / "data" / "latents"
    write_arrays(latents / "random" / "1.npz", latents_in(small_episode(seed=1)))
    update_index(latents, *LATENT_FILES)
    opened.clear()
    assert len(scan_latents(indexed / "data", LATENT)) == 1 and opened == []
    assert scan_latents(indexed / "data", LATENT + 1) == []  # one damaged file is allowed
    assert "mu: shape" in capsys.readouterr().err


def test_readers_write_nothing(indexed: Path) -> None:
    (indexed / INDEX_NAME).unlink()
    before = {path: path.stat().st_mtime_ns for path in sorted(indexed.rglob("*"))}
    scan(indexed)[0].read(EPISODE_SCHEMA)
    assert {path: path.stat().st_mtime_ns for path in sorted(indexed.rglob("*"))} == before


# --- two processes --------------------------------------------------------------------------------

UPDATE = """
import sys
from pathlib import Path
import utils.io.index
from utils.data.episodes import EPISODE_SCHEMA, update_index
utils.io.index.TICK_NS = 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    (Path(sys.argv[1]) / ".index").unlink(missing_ok=True)
    update_index(Path(sys.argv[1]), EPISODE_SCHEMA)
"""


def test_two_processes_may_write_the_index_at_once(indexed: Path, opened: list[str]) -> None:
    """The lock of the data folder prevents it. Without the lock the index is still whole."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPDATE, str(indexed)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    expected = scan_all(indexed)
    for process in processes:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        process.stdin.write("go\n")
        process.stdin.flush()
    while any(process.poll() is None for process in processes):
        assert scan(indexed) == expected
    assert [process.wait(TIMEOUT) for process in processes] == [0, 0]
    update_index(indexed, EPISODE_SCHEMA)
    opened.clear()
    assert scan(indexed) == expected and opened == []
    assert sorted(path.name for path in indexed.iterdir()) == [INDEX_NAME, "random", "recovery"]
