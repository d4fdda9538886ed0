"""The scripts under test and the flags of their tiny runs.

Sizes are tiny so that a script takes seconds. The code is the one that users run, and the
environment is the real one.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
ITERATE, REPRODUCE = "tools.iterate", "tools.reproduce"
FLAGS = {
    "collect_data": "--mode recovery --episodes 3 --max-steps 30 --workers 1",
    "run_vae_training": "--steps 4 --continue-steps 4 --batch 4 --evaluate-every 2 "
    "--save-seconds 0",
    "process_data": "--batch 16",
    "train_rnn": "--steps 6 --continue-steps 4 --lanes 2 --window 8 --evaluate-every 3 "
    "--save-seconds 0",
    "train_dream": "--searches 2 --continue-searches 1 --generations 2 --continue-generations 2 "
    "--candidates 4 --dreams 2 --horizon 5 --save-mean-every 2 --validation-tracks 1 --workers 1 "
    "--save-every 1",
    "test_agent": "--episodes 2 --workers 1",
    ITERATE: "--rounds 1 --on-policy-episodes 1 --iterative-episodes 1 --score-tracks 1 "
    "--workers 1",
}
SIX = tuple(script for script in FLAGS if script != ITERATE)
OTHERS = (
    *("tools.report", "tools.export_weights", "tools.analysis"),
    *("tools.export_web", "tools.export_minari"),
)
LOADERS = "loaders"  # the column of cases that call the file readers without a script
COLUMNS = (*FLAGS, "other tools", LOADERS)  # of the table in docs/reliability.md

# The training scripts, and the model that each writes.
TRAININGS = {"run_vae_training": "vae", "train_rnn": "rnn", "train_dream": "controller"}
# Flags with which a training saves its state only when a signal stops it.
SAVE_NEVER = {
    "run_vae_training": ("--save-seconds", "1e9"),
    "train_rnn": ("--save-seconds", "1e9"),
    "train_dream": ("--save-every", "1000"),
}
# The scripts of a Sim2Real2Sim round by hand, which starts from a finished run.
ROUND = {
    "collect_data": "--mode on-policy --episodes 2 --max-steps 30 --workers 1",
    "process_data": FLAGS["process_data"],
    "train_rnn": FLAGS["train_rnn"],
    "train_dream": FLAGS["train_dream"],
    "test_agent": "--split validation --episodes 2 --workers 1",
}
# From nothing to a report, with the preset of TINY.
REPRODUCTION = {
    REPRODUCE: "--preset quick --random-episodes 2 --recovery-episodes 3 --aggressive-episodes 1 "
    "--iterative-episodes 1 --rounds 1 --round-tracks 1 --choice-tracks 1 --test-tracks 1 "
    "--workers 1"
}
# The training scripts, each with a file to remove so that one episode is missing.
FEWER_EPISODES = {
    "run_vae_training": "data/rollouts/recovery/20000002.npz",
    "train_rnn": "data/latents/recovery/20000002.npz",
    "train_dream": "data/latents/recovery/20000002.npz",
}
# Chains of scripts that run without a fault. All other runs are compared with them.
CHAINS = {
    "run": SIX,
    "other_seed": SIX,
    "round": tuple(ROUND),
    "iterate": (ITERATE,),  # a round by tools.iterate
    "reproduce": (REPRODUCE,),
    "fewer_episodes": tuple(FEWER_EPISODES),
}
# Module constants that set sizes, replaced in every child process.
TINY = {
    "run_vae_training": {
        "HELD_OUT_FRAMES": 8,
        "SHOWN_FRAMES": 4,
        "PRESETS": {"quick": {"steps": 4, "batch": 4, "evaluate_every": 2}},
    },
    "train_rnn": {
        "PRESETS": {"quick": {"steps": 6, "continue_steps": 4, "lanes": 2, "window": 8}},
    },
    "train_dream": {
        "PRESETS": {
            "quick": {
                **{"searches": 1, "continue_searches": 1, "candidates": 4, "dreams": 2},
                **{"generations": 2, "continue_generations": 2, "horizon": 5},
            }
        },
    },
    "utils.search.selection": {"MAX_STEPS": 30},
    "utils.search.evolution": {"SCORE_DREAMS": 4},
    "test_agent": {"MAX_STEPS": 30},
    "utils.data.start_states": {"STATES_PER_EPISODE": 4},
    "utils.io.index": {"TICK_NS": 0},  # new files are indexed, not only those of two seconds ago
}

# What each script does in a run without a fault. A fault is tried at each; test_references.py
# compares the numbers with the references.
RENAMES = (  # of files into place, by the script itself or by its workers
    ("collect_data", "script", 2),
    ("collect_data", "worker", 3),
    ("run_vae_training", "script", 8),
    ("process_data", "script", 7),
    ("train_rnn", "script", 9),
    ("train_dream", "script", 10),
    ("test_agent", "script", 4),
    ("test_agent", "worker", 1),
)
ROUND_RENAMES = (  # of tools.iterate into its own folder rounds/; a kill takes long: one of each
    *(("script", 2, "before"), ("script", 3, "after"), ("script", 4, "before")),
    *(("script", 5, "after"), ("script", 6, "before"), ("script", 25, "before")),
    *(("script", 26, "after"), ("script", 27, "before"), ("script", 28, "after")),
    *(("worker", 1, "after"), ("worker", 4, "before")),
)
# Files opened for writing, as numbers. Missing: running times, which may fail to be written, and
# the empty metrics file that a training starts with.
WRITES = {
    "collect_data": (2, 3),
    "run_vae_training": range(3, 12),
    "process_data": range(2, 9),
    "train_rnn": range(3, 13),
    "train_dream": (2, *range(4, 18)),
    "test_agent": range(2, 5),
}
FILE_SIZES = {  # how many different sizes its files have
    "collect_data": 3,
    "run_vae_training": 4,
    "process_data": 5,
    "train_rnn": 3,
    "train_dream": 5,
    "test_agent": 5,
}


def chain_of(script: str) -> str:
    """The chain that a script is tried in by default."""
    return {ITERATE: "iterate", REPRODUCE: "reproduce"}.get(script, "run")


def flags_of(chain: str) -> Mapping[str, str]:
    """The flags of each script of a chain."""
    return {"round": ROUND, "reproduce": REPRODUCTION}.get(chain, FLAGS)


def module_of(script: str) -> str:
    """The module that runs as `python SCRIPT.py` or `python -m SCRIPT`."""
    spec = importlib.util.find_spec(script)
    assert spec is not None
    return f"{script}.__main__" if spec.submodule_search_locations else script
