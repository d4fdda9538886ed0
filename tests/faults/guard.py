"""Watches a reader of hostile files: its running time, its imports and what it starts."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

SECONDS = 10.0  # to read one small file; a reader that takes longer hangs
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "subprocess.Popen", "os.posix_spawn")
_alarms: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _alarms is not None and event.startswith((*FORBIDDEN, "socket.", "import")):
        name = str(arguments[0]) if arguments else ""
        if event != "import" or name.split(".")[0] not in sys.modules:
            _alarms.append(f"{event} {name}")


sys.addaudithook(_hook)


class Hang(BaseException):
    """Not an Exception, so that no loader can catch it."""


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Fail if the block takes longer than SECONDS."""

    def ring(number: int, frame: Any) -> None:
        raise Hang(f"hangs for {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except Hang as hang:
        raise AssertionError(str(hang)) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Fail if the block imports a new package, unpickles, opens a socket or starts a program."""
    global _alarms
    _alarms = []
    try:
        yield
        assert not _alarms, f"while reading: {_alarms}"
    finally:
        _alarms = None
