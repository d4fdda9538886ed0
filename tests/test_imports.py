"""Imports run one way and never in a circle. Read from the source; imports in functions count."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEPS = {
    *("collect_data", "run_vae_training", "process_data"),
    *("train_rnn", "train_dream", "test_agent"),
}
PACKAGES = ("models", "utils", "envs", "fast_car_racing", "tools", "benchmarks")

# What each room may import besides itself. A room below never knows a room above.
ALLOWED = {
    "fast_car_racing": set(),
    "models": set(),
    "utils": {"models", "fast_car_racing"},
    "envs": {"utils", "models", "fast_car_racing"},
    "scripts": {"envs", "utils", "models"},
    "tools": {"scripts", "envs", "utils", "models"},
    "benchmarks": {"scripts", "tools", "envs", "utils", "models", "fast_car_racing"},
}
# The rooms of utils/, from the lowest to the highest: each may import those before it.
UTILS_ORDER = (
    *("errors", "cpus", "output", "settings", "runtime"),
    *("io", "data", "sim", "search"),
)
# What a model may know: arrays, trees and types. No files, no environment, no command line.
ALLOWED_IN_MODELS = {
    *("jax", "jaxtyping", "equinox", "models"),
    *("typing", "collections", "dataclasses", "functools", "itertools", "math"),
}
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}
# fast_car_racing is a package of its own: neither JAX nor anything of this repository.
ALLOWED_IN_FAST_CAR_RACING = {"fast_car_racing", "gymnasium", "numpy", "numba", "pygame", "Box2D"}


def dotted_name(path: Path) -> str:
    """The module's name: a package's own file is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(package: str) -> dict[str, Path]:
    """All modules below a package, tests inside it left out."""
    paths = (path for path in (ROOT / package).rglob("*.py") if "tests" not in path.parts)
    return {dotted_name(path): path for path in paths}


SCRIPTS = {path.stem: path for path in ROOT.glob("*.py")}
MODULES = {name: path for package in PACKAGES for name, path in modules_of(package).items()}
MODULES |= SCRIPTS


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of what the imports in `tree` may load: of `from a import b`, a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            names.add(str(node.module))
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def edges(name: str) -> set[str]:
    """The modules of this repository that a module imports, at its top or inside a function.

    `from package import module` also loads the package itself; that edge counts only where a
    name of the package's own file is meant.
    """
    found = imported(parse(name)) & set(MODULES)
    return {
        target
        for target in found - {name}
        if not any(other.startswith(f"{target}.") for other in found)
    }


def room_of(name: str) -> str:
    return "scripts" if name in SCRIPTS else name.split(".")[0]


def test_the_root_holds_the_six_scripts_and_no_other_module() -> None:
    assert set(SCRIPTS) == STEPS


def test_the_reading_of_imports_works() -> None:
    assert "utils.search.evolution" in edges("train_dream")
    assert "utils.sim.agent" in edges("envs.real")
    assert "models.layers.conv" in edges("models.vae")  # nested folders are read
    assert {"utils.io.files", "tools.analysis.trace", "fast_car_racing.env"} <= set(MODULES)
    assert "b.c" in imported(ast.parse("def f():\n    from b import c"))  # inside a function


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_lead_downwards(name: str) -> None:
    room = room_of(name)
    upwards = {target for target in edges(name) if room_of(target) not in {room, *ALLOWED[room]}}
    assert not upwards


def test_scripts_import_no_script() -> None:
    assert not {(name, target) for name in STEPS for target in edges(name) & STEPS}


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("utils.")))
def test_rooms_of_utils_know_only_those_below(name: str) -> None:
    ranks = {room: rank for rank, room in enumerate(UTILS_ORDER)}
    room = name.split(".")[1]
    targets = {target.split(".")[1] for target in edges(name) if target.startswith("utils.")}
    if room == "viz":  # pictures of anything but the drives themselves
        assert not {"sim", "search"} & targets
    else:
        assert "viz" not in targets
        assert all(ranks[target] <= ranks[room] for target in targets)


@pytest.mark.parametrize("name", sorted(name for name in MODULES if room_of(name) == "models"))
def test_models_know_no_files_environment_or_command_line(name: str) -> None:
    tree = parse(name)
    assert {module.split(".")[0] for module in imported(tree)} <= ALLOWED_IN_MODELS
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & FORBIDDEN_CALLS


def test_fast_car_racing_needs_only_what_it_declares() -> None:
    import sys

    names = {name for name in MODULES if room_of(name) == "fast_car_racing"}
    names -= {"fast_car_racing.benchmark"}  # compares with EnvPool where that is installed
    needed = {module.split(".")[0] for name in names for module in imported(parse(name))}
    assert needed - set(sys.stdlib_module_names) <= ALLOWED_IN_FAST_CAR_RACING


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: edges(name) for name in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names a circle
    assert set(order) == set(MODULES)
