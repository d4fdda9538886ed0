"""A reader of hostile files is watched: its time, its imports, what it starts."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

SECONDS = 10.0  # for reading one small file; longer is a hang
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "subprocess.Popen", "os.posix_spawn")
_alarms: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _alarms is not None and event.startswith((*FORBIDDEN, "socket.", "import")):
        name = str(arguments[0]) if arguments else ""
        if event != "import" or name.split(".")[0] not in sys.modules:
            _alarms.append(f"{event} {name}")


sys.addaudithook(_hook)


class Hang(BaseException):
    """Nothing that a loader could mistake for damage."""


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Hang unless it is done in SECONDS."""

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
    """No foreign import, no unpickling, no other program."""
    global _alarms
    _alarms = []
    try:
        yield
        assert not _alarms, f"while reading: {_alarms}"
    finally:
        _alarms = None
