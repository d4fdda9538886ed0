"""Atomic writing and locks on folders, with real kills and a real size limit."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.io.files import (
    TEMPORARY_SUFFIX,
    atomic_replace,
    locked,
    open_regular,
    remove_orphans,
    write_atomically,
    write_json,
)
from utils.io.records import Metrics, read_metrics

ROOT = Path(__file__).parents[1]


def start_child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs `code` and says "ready" when it is where the test wants it."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_ready(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line == "ready\n", child.communicate()[1]


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()  # SIGKILL
    child.communicate()
    assert child.returncode == -signal.SIGKILL


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(TEMPORARY_SUFFIX)]


def test_writing_leaves_one_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.npz"
    write_atomically(path, lambda file: file.write(b"first"))
    write_atomically(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["file.npz"]


def test_temporary_names_match_no_pattern_of_readers(tmp_path: Path) -> None:
    with atomic_replace(tmp_path / "7.npz") as temporary:
        temporary.write_bytes(b"half")
        assert list(tmp_path.glob("[!.]*.npz")) == []
        assert temporary.suffix != ".npz"
    assert list(tmp_path.glob("[!.]*.npz")) == [tmp_path / "7.npz"]


def test_a_kill_keeps_the_old_bytes_and_the_next_run_removes_the_orphan(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.eqx"
    write_atomically(path, lambda file: file.write(b"old"))
    child = start_child(
        """
        import sys, pathlib
        from utils.io.files import write_atomically
        def write(file):
            file.write(b"new, but only half of it"); file.flush()
            print("ready", flush=True)
            sys.stdin.read()
        write_atomically(pathlib.Path(sys.argv[1]), write)
        """,
        path,
    )
    wait_until_ready(child)
    kill(child)
    assert path.read_bytes() == b"old"
    assert len(leftovers(tmp_path)) == 1
    with locked(tmp_path):
        assert leftovers(tmp_path) == []
    assert path.read_bytes() == b"old"


def test_other_files_are_not_removed_as_orphans(tmp_path: Path) -> None:
    for name in ("7.npz", ".hidden", "notes.partial", ".8.npz.123.partial"):
        (tmp_path / name).write_bytes(b"")
    remove_orphans(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "7.npz", "notes.partial"]


def test_the_file_of_a_live_process_is_not_removed(tmp_path: Path) -> None:
    """Of a run in a folder below, say, which holds a lock of its own."""
    with atomic_replace(tmp_path / "below" / "7.npz") as temporary:
        temporary.write_bytes(b"half")
        with locked(tmp_path):
            assert temporary.exists()
    assert (tmp_path / "below" / "7.npz").read_bytes() == b"half"


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda p: p.symlink_to("/dev/zero")])
def test_only_regular_files_are_read(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "7.npz"
    make(path)
    with pytest.raises(OSError, match="not a regular file") as caught:
        open_regular(path)
    assert caught.value.filename == str(path)


def test_the_lock_is_written_through_no_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(precious)
    with pytest.raises(OSError), locked(tmp_path / "run"):
        pytest.fail("a link was taken for a lock")
    assert precious.read_bytes() == b"precious"


def test_a_full_disk_under_metrics_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics(tmp_path / "m.jsonl", 0)
    metrics.path = Path("/dev/full")
    with pytest.raises(UserError, match="cannot write /dev/full: No space left"):
        metrics.append(step=1)


def test_full_disk_is_a_failure_that_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.eqx"
    path.write_bytes(b"old")
    # A file size limit makes write() fail as a full disk does: midway, with an OSError.
    child = start_child(
        """
        import resource, signal, sys, pathlib
        from utils.runtime import UserError
        from utils.io.files import write_atomically
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_atomically(pathlib.Path(sys.argv[1]), lambda file: file.write(bytes(1_000_000)))
        except UserError as failure:
            print("UserError", failure)
        """,
        path,
    )
    output, errors = child.communicate()
    assert output.startswith(f"UserError cannot write {path}: "), errors
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.eqx"]


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    write_json(path, {"mean": 1.0})
    with pytest.raises(ValueError):
        write_json(path, {"mean": float("nan")})
    with pytest.raises(KeyboardInterrupt), atomic_replace(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"mean": 1.0}
    assert os.listdir(tmp_path) == ["evaluation.json"]


def test_a_folder_that_cannot_be_made_is_a_failure_naming_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "below" / "x.npz"
    with pytest.raises(UserError, match=f"cannot write {path}"):
        write_atomically(path, lambda file: file.write(b"x"))


HOLD_LOCK = """
    import sys, pathlib
    from utils.io.files import locked
    with locked(pathlib.Path(sys.argv[1])):
        print("ready", flush=True)
        sys.stdin.read()
    """


def test_second_run_is_refused_naming_the_first_until_that_is_killed(tmp_path: Path) -> None:
    child = start_child(HOLD_LOCK, tmp_path)
    wait_until_ready(child)
    # A first run's half-written file is not an orphan while that run lives.
    growing = tmp_path / ".7.npz.1.partial"
    growing.write_bytes(b"half")
    refused = pytest.raises(UserError, match=rf"{tmp_path} is in use by process {child.pid}\b")
    with refused, locked(tmp_path):
        pytest.fail("two runs hold one folder")
    assert growing.exists()
    kill(child)
    with locked(tmp_path):
        assert not growing.exists()


def test_lock_is_free_again_after_a_failure_inside(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="inside"), locked(tmp_path):
        raise UserError("inside")
    child = start_child(HOLD_LOCK, tmp_path)
    wait_until_ready(child)
    kill(child)


def test_resumed_metrics_equal_uninterrupted_ones(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    metrics = Metrics(whole, 0)
    for step in (10, 20, 30):
        metrics.append(step=step, loss=step / 3)
    metrics = Metrics(cut, 0)
    metrics.append(step=10, loss=10 / 3)
    metrics.append(step=20, loss=99.0)  # after the last saved state: will be done again
    with open(cut, "a") as file:
        file.write('{"step": 30, "lo')  # killed while writing
    assert [record["step"] for record in read_metrics(cut)] == [10, 20]
    metrics = Metrics(cut, 10)
    for step in (20, 30):
        metrics.append(step=step, loss=step / 3)
    assert cut.read_bytes() == whole.read_bytes()


def test_records_of_an_earlier_attempt_are_dropped(tmp_path: Path) -> None:
    """A search that goes on records what it begins with, before any state of it is saved."""
    metrics = Metrics(tmp_path / "m.jsonl", 0)
    metrics.append(step=1, first=0, real=1.0)
    metrics.append(step=2, first=0, real=2.0)
    for _ in range(2):  # killed just after its first record, and run again
        Metrics(tmp_path / "m.jsonl", 2, begun_at=2).append(step=2, first=2, real=1.5)
    assert [(r["step"], r["first"]) for r in read_metrics(metrics.path)] == [(1, 0), (2, 0), (2, 2)]


def test_incomplete_records_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n[]\n3\n{"loss": 2}\n{"step": "x"}\n\xff\xfe\n{"step": 2}\n')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


def test_metrics_from_scratch_drop_the_last_run(tmp_path: Path) -> None:
    Metrics(tmp_path / "m.jsonl", 0).append(step=5, loss=1.0)
    Metrics(tmp_path / "m.jsonl", 0)
    assert read_metrics(tmp_path / "m.jsonl") == []
    assert read_metrics(tmp_path / "none.jsonl") == []
