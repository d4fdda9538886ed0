"""One command line for all scripts: a frozen dataclass of settings becomes flags.

Exit codes: 0 done, 1 a failure said in one line, 2 wrong usage, 130 interrupted (143 by SIGTERM).
"""

import argparse
import ctypes
import dataclasses
import os
import signal
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

PRESETS = ("quick", "laptop", "paper")


class Failure(Exception):
    """Something a user can act on: one plain line that names the file or the step."""


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field that is also a flag: its default, and its help with unit or reason.

    `choices=(...)` restricts the values; `minimum=` and `maximum=` bound a number.
    `changes_result=False`: a model is the same whatever its value; checkpoints leave it out.
    """
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


@dataclasses.dataclass(frozen=True)
class CommonSettings:
    """The flags that every script has."""

    data_dir: Path = setting(Path("data"), "folder of rollouts/ and latents/")
    run_dir: Path = setting(
        Path("runs/default"), "folder of this run's models, metrics and figures"
    )
    seed: int = setting(0, "seed of everything random in this script", minimum=0)
    debug: bool = setting(False, "show the traceback of a failure")


SettingsT = TypeVar("SettingsT", bound=CommonSettings)


def parse(
    settings_class: type[SettingsT],
    description: str,
    presets: Mapping[str, Mapping[str, Any]],
    arguments: list[str] | None = None,
) -> SettingsT:
    """Read the flags of `settings_class` from `arguments` (default: the command line).

    A preset changes defaults (the laptop's are the dataclass's own); a flag that is given wins.
    Wrong usage exits 2, as argparse does.
    """
    preset_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    preset_parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="laptop",
        help="sizes: a first taste, some hours of a laptop, or the paper's (default: laptop)",
    )
    known, _ = preset_parser.parse_known_args(arguments)
    parser = argparse.ArgumentParser(
        description=description,
        parents=[preset_parser],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(**presets.get(known.preset, {}))
    types = typing.get_type_hints(settings_class)
    for field in dataclasses.fields(settings_class):
        _add_flag(parser, field, types[field.name])
    values = vars(parser.parse_args(arguments))
    del values["preset"]
    return settings_class(**values)


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field, kind: Any) -> None:
    flag = "--" + field.name.replace("_", "-")
    default = parser.get_default(field.name)
    default = field.default if default is None else default
    text = field.metadata["help"].replace("%", "%%")
    if kind is bool:
        # A switch that is on by default is turned off by its --no- form; both forms always exist.
        action = argparse.BooleanOptionalAction
        parser.add_argument(
            flag, action=action, default=default, help=f"{text} (default: {default})"
        )
        return
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    convert = _bounded(options[0] if options else kind, field.metadata)
    shown = "none" if default is None else default
    parser.add_argument(
        flag,
        type=convert,
        choices=field.metadata.get("choices"),
        default=default,
        metavar=None if field.metadata.get("choices") else _metavar(field.name),
        help=f"{text} (default: {shown})",
    )


def _metavar(name: str) -> str:
    return name.split("_")[-1].upper()


def _bounded(kind: type, metadata: Mapping[str, Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        value = kind(text)
        low, high = metadata.get("minimum"), metadata.get("maximum")
        if low is not None and not value >= low:
            raise argparse.ArgumentTypeError(f"{text} is below {low}")
        if high is not None and not value <= high:
            raise argparse.ArgumentTypeError(f"{text} is above {high}")
        return value

    convert.__name__ = kind.__name__  # argparse names it: "invalid int value: 'x'"
    return convert


def run(main: Callable[[SettingsT], None], settings: SettingsT) -> typing.NoReturn:
    """Run `main(settings)` and exit with the code that fits how it ended."""
    signal.signal(signal.SIGTERM, _terminate)
    keep_freed_memory()
    keep_float32()
    code, message = 0, ""
    try:
        main(settings)
        sys.stdout.flush()
    except (KeyboardInterrupt, SystemExit) as stop:
        # A second Ctrl-C would replace the exit code, or disturb the stopping of workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupted = 130, "interrupted; the same command goes on from where it was"
        code, message = (stop.code, "") if isinstance(stop, SystemExit) else interrupted
    except (Failure, OSError, MemoryError) as error:
        if settings.debug:
            raise
        code, message = 1, _plain(error)
    # Only outside of these clauses is what `main` held let go of: its generators end, and with
    # them their workers, for which an exit would wait forever.
    _exit(code, message)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what is allocated next, where it is glibc.

    XLA allocates the working memory of a step anew at every step. glibc gives such blocks back to
    the kernel, which clears each page of them when it is next touched: a third of a gradient step
    of V. In a single arena that is never trimmed they are used again as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        trim_threshold, mmap_max, arena_max = -1, -4, -8  # from <malloc.h>
        libc.mallopt(arena_max, 1)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def keep_float32() -> None:
    """Have a GPU multiply float32 as float32: by default it rounds to TF32's ten bits.

    The models are held equal to float64 references within float32. Without effect on a CPU.
    """
    if jax := sys.modules.get("jax"):  # scripts that drive without a model do not load it
        jax.config.update("jax_default_matmul_precision", "float32")


def _terminate(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)


def _plain(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _exit(code: Any, message: str) -> typing.NoReturn:
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it or its disk is full; the interpreter would say so again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if message:
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(code)


def progress(total: int, unit: str, initial: int = 0, label: str | None = None) -> tqdm:
    """A bar with rate and time left; in a log file a line a while, in place of ten a second."""
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


def describe_device() -> str:
    """The JAX device in use, in words, for the first line that a script prints."""
    import jax  # here, so that scripts which drive without a model start without JAX

    device = jax.devices()[0]
    cores = f", {os.cpu_count()} cores" if device.platform == "cpu" else ""
    return f"JAX {jax.__version__} on {device.platform} ({device.device_kind}{cores})"
