"""Names that earlier versions wrote to files, and what they are called now.

Every reader of a checkpoint header, a metrics file or an evaluation applies them, so that files of
earlier versions can be used as if they had been written today.
"""

import re
from collections.abc import Mapping
from typing import Any

RENAMED = {
    "unseen_units": "masked_units",  # setting of train_dream.py
    "validate_every": "save_mean_every",  # setting of train_dream.py
    "judged": "dream_score",  # metric of a saved mean
    "optimism": "reward_bias",  # metric of M; also optimism_10, optimism_50, optimism_200
    "train_optimism": "train_reward_bias",
    "yardstick": "baseline",  # in evaluation.json
}
_PATTERN = re.compile(rf"({'|'.join(RENAMED)})(_\d+)?")


def with_current_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its keys as they are called now."""
    return {_current_name(key): value for key, value in record.items()}


def _current_name(name: str) -> str:
    match = _PATTERN.fullmatch(name)
    return f"{RENAMED[match[1]]}{match[2] or ''}" if match else name
