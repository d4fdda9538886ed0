"""Which track seeds serve which purpose, written down once.

A track seed is what `environment.reset(seed=...)` gets; it decides the whole track.
Training, validation and test tracks are disjoint. Validation tracks serve every choice between
agents, test tracks serve the report alone.
"""

# The menu's order. Each mode drives its own ten million training tracks, so that no track is
# driven twice however many episodes a mode has.
MODES = ("random", "iterative", "recovery", "aggressive", "on-policy")
AGENT_MODES = ("iterative", "on-policy")
TRACKS_PER_MODE = 10_000_000
TRAINING = {
    mode: range(index * TRACKS_PER_MODE, (index + 1) * TRACKS_PER_MODE)
    for index, mode in enumerate(MODES)
}
VALIDATION = range(80_000_000, 90_000_000)
TEST = range(90_000_000, 100_000_000)
SPLITS = {"validation": VALIDATION, "test": TEST}

# One collected episode in ten is held out: V and M report their losses on it and never learn
# from it. The second of ten, so that two episodes suffice for both uses.
HOLD_OUT_EVERY, HOLD_OUT_REMAINDER = 10, 1


def is_held_out(track: int) -> bool:
    """Whether V and M keep this training track for their validation losses."""
    return track % HOLD_OUT_EVERY == HOLD_OUT_REMAINDER
