"""Faults that the pipeline must survive, each tried against every script it can strike.

make faults                                                  # all cases, and docs/reliability.md
pytest -m faults tests/faults -k test_kills                  # one kind
pytest -m faults tests/faults --collect-only --quiet         # the list of cases
"""
