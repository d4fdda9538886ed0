"""How a script runs: exit codes, signals, the device, workers and progress.

Exit codes: 0 done, 1 an error in one line, 2 wrong usage, 130 interrupted (143 by SIGTERM).
"""

import ctypes
import dataclasses
import math
import signal
import statistics
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from utils.cpus import default_workers
from utils.errors import UserError, program_name
from utils.output import protect_output
from utils.settings import CommonSettings, SettingsT

# Settings that decide how much memory a step takes; most effective first.
MEMORY_FLAGS = ("batch", "lanes", "window", "candidates", "dreams", "horizon", "sizes", "workers")
PLATFORM_PACKAGES = {"cuda": "jax[cuda12]", "gpu": "jax[cuda12]", "tpu": "jax[tpu]"}


def run(main: Callable[[SettingsT], None], settings: SettingsT) -> typing.NoReturn:
    """Run `main(settings)` and exit with the code that describes how it ended."""
    protect_output()
    signal.signal(signal.SIGTERM, _terminate)
    configure_malloc()
    configure_precision()
    code, message = 0, ""
    try:
        if "jax" in sys.modules:  # not loaded by scripts that drive without a model
            find_device()
        main(settings)
    except (KeyboardInterrupt, SystemExit) as stop:
        # A second Ctrl-C must not change the exit code or interrupt the shutdown of workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupted = 130, "interrupted; run the same command to resume"
        code, message = (stop.code, "") if isinstance(stop, SystemExit) else interrupted
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        code, message = 1, _explain(error, settings)
        if settings.debug or not message:
            raise
    # After the except clauses the traceback no longer refers to the generators of `main`. They end
    # here and stop their workers, for which the exit would otherwise wait forever.
    _exit(code, message)


def configure_malloc() -> None:
    """Configure glibc to reuse freed memory instead of returning it to the kernel.

    XLA allocates its working memory at every step. glibc returns such large blocks to the kernel,
    which clears each page when it is used again; that takes a third of a gradient step of V. A
    single arena that is never trimmed avoids it. No effect with another C library.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        trim_threshold, mmap_max, arena_max = -1, -4, -8  # from <malloc.h>
        libc.mallopt(arena_max, 1)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def configure_precision() -> None:
    """Compute in float32, whatever JAX's variables say.

    The default of a GPU for float32 matrices is TF32, whose ten bits of mantissa are less than the
    tests of the models allow. Under JAX_ENABLE_X64 only a part of a model would be float64, which
    neither its scans nor its checkpoints accept.
    """
    if jax := sys.modules.get("jax"):  # not loaded by scripts that drive without a model
        jax.config.update("jax_default_matmul_precision", "float32")
        jax.config.update("jax_enable_x64", False)


def _terminate(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)


def _explain(error: Exception, settings: CommonSettings) -> str:
    """The one line for a user, or "" for a programming error, which deserves its traceback."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)  # JAX's, which has no class of its own for this
        and ("RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower())
    ):
        names = [field.name for field in dataclasses.fields(settings)]
        flags = ["--" + name for name in MEMORY_FLAGS if name in names]
        remedy = f"; lower {' or '.join(flags)}. Saved files are kept" if flags else ""
        return f"out of memory ({text or type(error).__name__}){remedy}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return "" if isinstance(error, RuntimeError) else text or type(error).__name__


def _exit(code: Any, message: str) -> typing.NoReturn:
    sys.stdout.flush()
    if message:
        print(f"{program_name()}: {message}", file=sys.stderr)
    sys.exit(code)


def progress(total: int, unit: str, initial: int = 0, label: str | None = None) -> tqdm:
    """A progress bar with rate and time left. In a log file it prints a line every 15 seconds."""
    return tqdm(
        total=total,
        unit=unit,
        initial=initial,
        desc=label,
        unit_scale=total >= 10_000,
        mininterval=0.1 if sys.stderr.isatty() else 15.0,
        maxinterval=30.0,
        dynamic_ncols=True,
    )


def find_device() -> Any:
    """JAX's first device. Raises UserError if there is none of the platforms in JAX_PLATFORMS."""
    import jax  # here, because scripts that need no model start faster without JAX

    try:
        return jax.devices()[0]
    except (AssertionError, RuntimeError) as error:  # JAX asserts if its CUDA plugin is missing
        config: Any = jax.config  # its settings are not declared
        raise UserError(_explain_missing_device(config.jax_platforms, str(error))) from error


def describe_device() -> str:
    """The JAX device in use, for the first line that a script prints."""
    import jax

    device = find_device()
    cores = f", {default_workers()} cores" if device.platform == "cpu" else ""
    return f"JAX {jax.__version__} on {device.platform} ({device.device_kind}{cores})"


def _explain_missing_device(platforms: str | None, reason: str) -> str:
    """What a user can do where JAX finds no device of the `platforms` in JAX_PLATFORMS."""
    reason = f" ({' '.join(reason.split())})" if reason else ""
    installs = [
        PLATFORM_PACKAGES[p] for p in (platforms or "").split(",") if p in PLATFORM_PACKAGES
    ]
    install = f'install its support with pip install "{installs[0]}", or ' if installs else ""
    return (
        f"JAX finds no device for JAX_PLATFORMS={platforms or ''}{reason}: "
        f"{install}unset JAX_PLATFORMS to use what the machine has"
    )


def format_number(value: float | None, spec: str) -> str:
    """Format a number by `spec`, or as "n/a" of the same width where it was not measured."""
    if value is not None and not math.isnan(value):
        return format(value, spec)
    return format("n/a", f">{spec.split('.')[0].lstrip('+')}")


def format_score(scores: Sequence[float], spec: str = ".1f", sign: str = "±") -> str:
    """Mean ± standard deviation; of one score the mean alone, because its spread is not known."""
    mean = format(statistics.fmean(scores), spec)
    return f"{mean} {sign} {statistics.pstdev(scores):{spec}}" if len(scores) > 1 else mean
