"""Imports run one way: scripts -> utils -> models -> jax. Read from the source, nothing is run."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEPS = {
    *("collect_data", "run_vae_training", "process_data"),
    *("train_rnn", "train_dream", "test_agent"),
}
SCRIPTS = {path.stem: path for path in ROOT.glob("*.py")}
PACKAGES = {
    f"{package}.{path.stem}": path
    for package in ("models", "utils")
    for path in (ROOT / package).glob("*.py")
    if path.stem != "__init__"
}
MODULES = {**SCRIPTS, **PACKAGES}

# What a model may know: arrays, trees and types. No files, no environment, no command line.
ALLOWED_BELOW_MODELS = {
    *("jax", "jaxtyping", "equinox", "models"),
    *("typing", "collections", "dataclasses", "functools", "itertools", "math"),
}
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}


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
    """The modules of this project that module `name` imports, at its top or inside a function."""
    return imported(parse(name)) & set(MODULES)


def edges_at_import(name: str) -> set[str]:
    """Those that it imports as it is imported: not inside a function."""
    tree = parse(name)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    top = ast.Module([node for node in tree.body if not isinstance(node, functions)], [])
    return imported(top) & set(MODULES)


def test_all_six_scripts_and_both_packages_are_read() -> None:
    assert set(SCRIPTS) > STEPS
    # Three edges that are known to be there: the reading of imports works at all.
    assert "models.dream" in edges("train_dream")
    assert "utils.runtime" in edges("collect_data")
    assert "utils.sim.agent" in edges("utils.sim.rollouts")  # inside a function


@pytest.mark.parametrize("name", sorted(STEPS))
def test_steps_import_no_script(name: str) -> None:
    assert not edges(name) & set(SCRIPTS)


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_packages_import_no_script(name: str) -> None:
    assert not edges(name) & set(SCRIPTS)


@pytest.mark.parametrize("name", sorted(name for name in PACKAGES if name.startswith("models.")))
def test_models_know_no_files_environment_or_command_line(name: str) -> None:
    tree = parse(name)
    assert {module.split(".")[0] for module in imported(tree)} <= ALLOWED_BELOW_MODELS
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & FORBIDDEN_CALLS


def test_no_module_needs_itself() -> None:
    graph = {name: edges_at_import(name) for name in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError on a cycle
    assert set(order) == set(MODULES)
