"""One run to a folder, and files flushed to the disk: on file systems without flock or fsync too.

NFS without its lock service, Lustre, SMB and FUSE mounts (Google Drive in Colab) may lack either.
There a file that names its owner takes the place of the kernel's lock.
"""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from utils.errors import UserError, write_errors

LOCK_NAME = ".lock"
OWNER_NAME = ".lock.owner"
NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
ORPHAN_SECONDS = 3600.0  # without flock, a temporary file untouched for so long has no writer

_warned: list[OSError] = []  # at most one: a process warns once


def try_flock(descriptor: int, path: Path, operation: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file; False if its file system has no flock.

    BlockingIOError: `operation` has LOCK_NB and another process holds the lock.
    """
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        _warn_once(path, error)
        return False
    return True


def fsync(descriptor: int, path: Path) -> None:
    """Flush a file to the disk if its file system can; OSError if the disk fails."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
        _warn_once(path, error)


def _warn_once(path: Path, error: OSError) -> None:
    # The workers of a run stay silent: the run itself locks its folder before it starts them.
    if not _warned and multiprocessing.parent_process() is None:
        _warned.append(error)
        tqdm.write(
            f"warning: the file system of {path.parent} lacks flock or fsync ({error.strerror}). "
            f"Without flock, the file {OWNER_NAME} there keeps a second run out; without fsync, a "
            "power cut can damage new files. A local folder avoids both",
            file=sys.stderr,
        )


def has_writer(temporary: Path) -> bool:
    """Whether a live process still writes this temporary file."""
    with open(temporary, "rb") as file:
        try:
            if try_flock(file.fileno(), temporary, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return False
        except BlockingIOError:
            return True
        return time.time() - os.fstat(file.fileno()).st_mtime < ORPHAN_SECONDS


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. Raises UserError if another process holds it.

    The kernel's lock (flock) ends with its process, even after kill −9.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    # The lock file is written to, so it must not be a link to a file elsewhere.
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            locked = try_flock(lock, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 100).decode(errors="replace").strip() or "another process"
            raise UserError(f"{folder} is in use by {owner}; wait for it or stop it") from None
        except OSError as error:
            raise UserError(f"cannot lock {path}: {error.strerror}") from error
        with contextlib.nullcontext() if locked else _owner_file(folder):
            with write_errors(path):
                os.ftruncate(lock, 0)
                os.write(lock, f"process {os.getpid()}".encode())
            yield
            os.ftruncate(lock, 0)
    finally:
        os.close(lock)


@contextlib.contextmanager
def _owner_file(folder: Path) -> Iterator[None]:
    """Hold `folder` by a file that names host, process and when the process started."""
    path, me = folder / OWNER_NAME, f"{socket.gethostname()} {os.getpid()} {_start(os.getpid())}"
    with write_errors(path):
        while not _create(path, me):
            _remove_stale(path, folder)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _create(path: Path, text: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        return False
    with open(descriptor, "w") as file:
        file.write(text)
    return True


def _remove_stale(path: Path, folder: Path) -> None:
    """Remove the owner file of a process of this host that has ended, else raise UserError."""
    try:
        owner = path.read_text(errors="replace")[:300]
    except FileNotFoundError:  # its run has just ended
        return
    host, pid, start = [*owner.split(), "", "", ""][:3]
    ours = host == socket.gethostname() and pid.isdecimal() and len(pid) < 10
    if not ours or _start(int(pid)) == start:
        who = f"process {pid} on {host}" if pid else "another process"
        raise UserError(
            f"{folder} is in use by {who}; wait for it or stop it. If it has ended, delete {path}"
        )
    # Renamed first: of two processes that find it, one gets it, and never the next owner's file.
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, mine)
        if mine.read_text(errors="replace")[:300] != owner:
            os.rename(mine, path)
        mine.unlink(missing_ok=True)


def _start(pid: int) -> str:
    """When a process started, as the kernel counts; "ended" where there is none."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A killed process stays a zombie until its parent waits; in a container that may be never.
        return "ended" if state in ("Z", "X") else numbers[18]
    except OSError:
        pass
    try:
        os.kill(pid, 0)  # systems without /proc: the process of this number may be another
    except ProcessLookupError:
        return "ended"
    except PermissionError:
        pass
    return "unknown"
