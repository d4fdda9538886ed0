"""One command line for all scripts: a frozen dataclass of settings becomes flags."""

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

PRESET_NAMES = ("quick", "laptop", "paper")


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field that is also a flag: its default, and its help with unit or reason.

    `choices=(...)` restricts the values; `minimum=` and `maximum=` bound a number.
    `old_name="..."`: a flag of earlier versions that is still accepted.
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


def program_name() -> str:
    """What a user types to run this program: `train_rnn.py`, or `python -m tools.report`."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        return Path(sys.argv[0]).name
    return f"python -m {spec.name.removesuffix('.__main__')}"


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
        choices=PRESET_NAMES,
        default="laptop",
        help="sizes: a first taste, some hours of a laptop, or the paper's (default: laptop)",
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

    convert.__name__ = kind.__name__  # argparse names it: "invalid int value: 'x'"
    return convert
