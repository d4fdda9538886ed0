"""The seeds of the training, validation and test tracks.

`environment.reset(seed=track)` determines the whole track. The ranges are disjoint. Validation
tracks serve model selection; test tracks serve only the final report.
"""

# In the order of the menu. Each mode has ten million training tracks of its own, so that no track
# is driven twice.
MODES = ("random", "iterative", "recovery", "aggressive", "on-policy")
AGENT_MODES = ("iterative", "on-policy")
TRACKS_PER_MODE = 10_000_000
TRAINING = {
    mode: range(index * TRACKS_PER_MODE, (index + 1) * TRACKS_PER_MODE)
    for index, mode in enumerate(MODES)
}
# Training tracks whose episodes first choose among agents (train_dream.py --record).
SELECTION = range(50_000_000, 60_000_000)
VALIDATION = range(80_000_000, 90_000_000)
TEST = range(90_000_000, 100_000_000)
SPLITS = {"validation": VALIDATION, "test": TEST}

# One training episode in ten is held out: V and M report losses on it but never train on it. The
# second of each ten, so that two episodes are enough to have both kinds.
HOLD_OUT_EVERY, HOLD_OUT_REMAINDER = 10, 1


def is_held_out(track: int) -> bool:
    """Whether V and M use this training track only for their validation losses."""
    return track % HOLD_OUT_EVERY == HOLD_OUT_REMAINDER
