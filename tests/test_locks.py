"""File systems without flock or fsync: a library loaded before libc answers in their place.

Loaded into the program behind a FUSE mount, it makes a real file system of that kind.
"""

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.io import locks
from utils.io.files import locked, remove_orphans, write_atomically

ROOT = Path(__file__).parents[1]
STUB = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

static int answer(const char *name, const char *variable, int first, int second, int two) {
    const char *number = getenv(variable);
    if (number) { errno = atoi(number); return -1; }
    void *real = dlsym(RTLD_NEXT, name);
    return two ? ((int (*)(int, int))real)(first, second) : ((int (*)(int))real)(first);
}
int flock(int fd, int operation) { return answer("flock", "FLOCK_ERRNO", fd, operation, 1); }
int fsync(int fd) { return answer("fsync", "FSYNC_ERRNO", fd, 0, 0); }
"""
# It holds a folder, writes two files, says so, and waits for the end of its input.
RUN = """
import sys
from pathlib import Path
from utils import runtime
from utils.io.files import locked, write_atomically
from utils.settings import CommonSettings

def main(settings):
    with locked(settings.run_dir):
        for name in ("a", "b"):
            write_atomically(settings.run_dir / name, lambda file: file.write(b"whole"))
        print("ready", flush=True)
        sys.stdin.read()

runtime.run(main, CommonSettings(run_dir=Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a C compiler on Linux is needed to simulate a file system without flock")
    folder = tmp_path_factory.mktemp("stub")
    (folder / "stub.c").write_text(STUB)
    library = folder / "stub.so"
    command = [compiler, "-shared", "-fPIC", "-o", library, folder / "stub.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


def start(folder: Path, stub: Path, **answers: int) -> subprocess.Popen[str]:
    environment = {name: str(number) for name, number in answers.items()}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": str(stub), **environment},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    errors = process.communicate(timeout=120)[1]
    return process.returncode, errors


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]


@pytest.mark.parametrize(
    "answers",
    [
        {"FLOCK_ERRNO": errno.ENOLCK},
        {"FLOCK_ERRNO": errno.ENOSYS},
        {"FLOCK_ERRNO": errno.EOPNOTSUPP, "FSYNC_ERRNO": errno.EINVAL},
        {"FSYNC_ERRNO": errno.ENOTSUP},
    ],
)
def test_a_run_goes_on_with_one_warning(
    tmp_path: Path, stub: Path, answers: dict[str, int]
) -> None:
    folder = tmp_path / "my run"
    code, errors = finish(start(folder, stub, **answers))
    assert code == 0, errors
    assert errors.count("\n") == 1
    assert errors.startswith(f"warning: the file system of {folder} ") and "local folder" in errors
    assert sorted(os.listdir(folder)) == [".lock", "a", "b"]
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes() == b"whole"


@pytest.mark.parametrize("name", ["FLOCK_ERRNO", "FSYNC_ERRNO"])
def test_a_failing_disk_is_one_line_that_names_the_folder(
    tmp_path: Path, stub: Path, name: str
) -> None:
    code, errors = finish(start(tmp_path, stub, **{name: errno.EIO}))
    assert code == 1 and errors.count("\n") == 1
    assert str(tmp_path) in errors and "Input/output error" in errors


def test_without_flock_a_second_run_is_refused_until_the_first_is_gone(
    tmp_path: Path, stub: Path
) -> None:
    no_flock = {"FLOCK_ERRNO": errno.ENOLCK}
    first = start(tmp_path, stub, **no_flock)
    wait_until_ready(first)
    code, errors = finish(start(tmp_path, stub, **no_flock))
    assert code == 1
    last = errors.splitlines()[-1]
    assert f"{tmp_path} is in use by process {first.pid}" in last and ".lock.owner" in last
    first.kill()
    assert first.stdout is not None and first.stdout.read() == ""  # it has ended: a zombie now
    assert (tmp_path / ".lock.owner").exists()  # what a killed run leaves keeps nobody out
    code, errors = finish(start(tmp_path, stub, **no_flock))
    first.communicate()
    assert code == 0, errors
    assert not list(tmp_path.glob(".lock.owner*"))


@pytest.fixture
def mount(tmp_path: Path, stub: Path) -> Iterator[Path]:
    """A FUSE mount on which flock answers ENOLCK and fsync EINVAL."""
    if shutil.which("bindfs") is None or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("a FUSE mount needs /dev/fuse, and: apt-get install bindfs")
    below, mounted = tmp_path / "below", tmp_path / "mounted"
    below.mkdir()
    mounted.mkdir()
    answers = {"FLOCK_ERRNO": f"{errno.ENOLCK}", "FSYNC_ERRNO": f"{errno.EINVAL}"}
    subprocess.run(
        ["bindfs", "--enable-lock-forwarding", "--multithreaded", below, mounted],
        env={**os.environ, "LD_PRELOAD": str(stub), **answers},
        check=True,
    )
    yield mounted
    subprocess.run(["fusermount", "-u", mounted], check=True)


def test_a_real_mount_without_flock_keeps_a_second_run_out(mount: Path, stub: Path) -> None:
    with pytest.raises(OSError, match="No locks"), open(mount / "tried", "w") as file:
        locks.fcntl.flock(file.fileno(), locks.fcntl.LOCK_EX)
    (mount / "tried").unlink()
    first = start(mount, stub)
    wait_until_ready(first)
    code, errors = finish(start(mount, stub))
    assert code == 1 and f"{mount} is in use by process {first.pid}" in errors
    code, errors = finish(first)
    assert code == 0 and errors.count("\n") == 1 and errors.startswith("warning: ")
    assert sorted(os.listdir(mount)) == [".lock", "a", "b"]


# --- the owner file, in this process --------------------------------------------------------------


@pytest.fixture
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    monkeypatch.setattr(locks, "_warned", [OSError()])


HOST = socket.gethostname()


@pytest.mark.usefixtures("without_flock")
@pytest.mark.parametrize(
    "owner", ["elsewhere 1 100", "", "nonsense", f"{HOST} x 1", f"{HOST} {'9' * 40} 1"]
)
def test_an_owner_that_cannot_be_asked_is_believed(tmp_path: Path, owner: str) -> None:
    path = tmp_path / ".lock.owner"
    path.write_text(owner)
    with pytest.raises(UserError, match="If it has ended, delete") as caught, locked(tmp_path):
        pytest.fail("the folder was taken")
    assert str(path) in str(caught.value) and path.read_text() == owner


@pytest.mark.usefixtures("without_flock")
def test_an_owner_whose_number_another_process_has_now_is_gone(tmp_path: Path) -> None:
    path = tmp_path / ".lock.owner"
    path.write_text(f"{HOST} {os.getpid()} 1")  # this process started later than the first tick
    with locked(tmp_path):
        assert path.read_text().split()[:2] == [HOST, str(os.getpid())]
        said = f"in use by process {os.getpid()} on "
        with pytest.raises(UserError, match=said), locked(tmp_path):
            pytest.fail("the folder was taken twice")
    assert not path.exists()


@pytest.mark.usefixtures("without_flock")
def test_without_flock_only_old_temporary_files_are_removed(tmp_path: Path) -> None:
    old, young = tmp_path / ".a.npz.1.partial", tmp_path / ".b.npz.2.partial"
    for path, age in ((old, 2 * locks.ORPHAN_SECONDS), (young, 1.0)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    remove_orphans(tmp_path)
    assert not old.exists() and young.exists()
    write_atomically(tmp_path / "c", lambda file: file.write(b"whole"))
    assert (tmp_path / "c").read_bytes() == b"whole"
