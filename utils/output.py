"""Standard output and error that cannot stop a run: closed, full, broken or without a letter."""

import io
import os
import sys
from typing import Any


class SafeStream:
    """A text stream whose write errors are said once on standard error and then ignored."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        """Write `text`. Returns its length, as if all of it had been written."""
        try:
            self.stream.write(text)
        except OSError as error:
            self._discard(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self.stream.flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        """Send what is buffered, and all that follows, to the null device."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.stream.fileno())
        os.close(null)
        # A broken pipe is what `| head` leaves; nobody needs to be told.
        if self is sys.stdout and not isinstance(error, BrokenPipeError):
            print(f"standard output cannot be written: {error.strerror}", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def protect_output() -> None:
    """Let no `print` of this process raise: for scripts, not for libraries.

    Letters that the encoding lacks are written as escapes (`\\xb1`), as on standard error.
    """
    _fill_closed_descriptors()
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed when Python started
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, "r" if name == "stdin" else "w"))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # not a notebook's, nor one that is protected
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, SafeStream(stream))


def _fill_closed_descriptors() -> None:
    """Open the null device as 0, 1 and 2 where these are closed.

    The next file that is opened would get the number, and what is printed below Python.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
