"""The command line: a frozen dataclass of settings whose fields are flags."""

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from utils.cpus import default_workers
from utils.errors import program_name
from utils.output import protect_output

PRESET_NAMES = ("quick", "laptop", "paper")


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field that is also a flag.

    Args:
        default: the default of the laptop preset.
        help: the flag's help text, with the unit or the reason.
        metadata: `choices=(...)` restricts the values; `minimum=` and `maximum=` bound a number;
            `old_name="..."` is a flag of an earlier version that still works;
            `changes_result=False` keeps a setting that does not affect the model out of
            checkpoints; `size=True` is a constructor argument, recorded among their sizes;
            `positional=True` is a required argument without a flag.
    """
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


@dataclasses.dataclass(frozen=True)
class CommonSettings:
    """The flags that every script has."""

    data_dir: Path = setting(Path("data"), "folder of rollouts/ and latents/")
    run_dir: Path = setting(Path("runs/default"), "folder of the models, metrics and figures")
    seed: int = setting(0, "random seed of this script", minimum=0, maximum=2**32 - 1)
    debug: bool = setting(False, "show the traceback of an error")


@dataclasses.dataclass(frozen=True)
class ReaderSettings(CommonSettings):
    """The flags of a script that reads its run folder, which may be on the Hugging Face Hub."""

    run_dir: Path = setting(
        Path("runs/default"),
        "folder of the models, metrics and figures, or hf://OWNER/NAME on the Hugging Face Hub",
    )


@dataclasses.dataclass(frozen=True)
class DrivingSettings(CommonSettings):
    """The flags of a script that drives on the real track."""

    workers: int = setting(
        default_workers(), "processes for real drives", minimum=1, changes_result=False
    )
    dask: str | None = setting(
        None,
        "drive on the workers of this Dask scheduler instead, such as tcp://host:8786",
        changes_result=False,
    )

    @property
    def drive_on(self) -> int | str:
        """The number of worker processes on this machine, or the address of a Dask scheduler."""
        return self.dask or self.workers


SettingsT = TypeVar("SettingsT", bound=CommonSettings)


def parse(
    settings_class: type[SettingsT],
    description: str,
    presets: Mapping[str, Mapping[str, Any]],
    arguments: list[str] | None = None,
) -> SettingsT:
    """Parse `arguments` (default: the command line) into an instance of `settings_class`.

    A preset replaces defaults; a flag on the command line overrides the preset. The defaults of
    the preset "laptop" are those of the dataclass. Wrong usage exits with code 2.
    """
    protect_output()  # help texts have letters that an ASCII terminal lacks
    preset_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    preset_parser.add_argument(
        "--preset",
        choices=PRESET_NAMES,
        default="laptop",
        help="sizes: minutes, hours on a laptop, or those of the paper (default: laptop)",
    )
    known, _ = preset_parser.parse_known_args(arguments)
    parser = argparse.ArgumentParser(
        prog=program_name(),
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
    if on_hub(values["run_dir"]) and not issubclass(settings_class, ReaderSettings):
        name = str(values["run_dir"]).removeprefix("hf:").lstrip("/")
        remedy = f"download it with python -m tools.hub pull {name} --run-dir FOLDER"
        parser.exit(2, f"{parser.prog}: --run-dir must be a local folder here; {remedy}\n")
    return settings_class(**values)


def on_hub(run_dir: str | Path) -> bool:
    """Whether a run folder is hf://OWNER/NAME, which a Path shortens to hf:/OWNER/NAME."""
    return str(run_dir).startswith("hf:/")


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field, kind: Any) -> None:
    flag = "--" + field.name.replace("_", "-")
    default = parser.get_default(field.name)
    default = field.default if default is None else default
    text = field.metadata["help"].replace("%", "%%")
    if kind is bool:
        action = argparse.BooleanOptionalAction
        parser.add_argument(
            flag, action=action, default=default, help=f"{text} (default: {default})"
        )
        return
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    convert = _bounded(options[0] if options else kind, field.metadata)
    if field.metadata.get("positional"):
        parser.add_argument(field.name, choices=field.metadata.get("choices"), help=text)
        return
    shown = "none" if default is None else default
    parser.add_argument(
        flag,
        type=convert,
        choices=field.metadata.get("choices"),
        default=default,
        metavar=None if field.metadata.get("choices") else _metavar(field.name),
        help=f"{text} (default: {shown})",
    )
    if old_name := field.metadata.get("old_name"):
        parser.add_argument(
            "--" + old_name.replace("_", "-"),
            dest=field.name,
            type=convert,
            choices=field.metadata.get("choices"),
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
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

    convert.__name__ = kind.__name__  # for argparse's message: "invalid int value: 'x'"
    return convert


def recorded_settings(settings: CommonSettings) -> dict[str, Any]:
    """The settings that a checkpoint header records: those that may change the result."""
    excluded = {field.name for field in dataclasses.fields(CommonSettings)} - {"seed"}
    excluded |= {
        field.name
        for field in dataclasses.fields(settings)
        if field.metadata.get("size") or not field.metadata.get("changes_result", True)
    }
    values = dataclasses.asdict(settings)
    return {name: value for name, value in values.items() if name not in excluded}


def restore_settings(
    recorded: Mapping[str, Any],
    settings_class: type[CommonSettings],
    source: Path,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The recorded settings, and the recorded sizes, that `settings_class` has.

    Settings of other versions, which it does not have, are named on stderr with the file `source`
    that recorded them.
    """
    known = {field.name for field in dataclasses.fields(settings_class)}
    unknown = {name: value for name, value in recorded.items() if name not in known}
    if unknown:
        listed = ", ".join(f"{name}={value}" for name, value in unknown.items())
        print(
            f"{source}: ignoring settings that this version does not have: {listed}",
            file=sys.stderr,
        )
    return {n: value for n, value in {**recorded, **(sizes or {})}.items() if n in known}
