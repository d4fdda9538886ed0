"""Every fault that the pipeline must survive, tried against every stage it can strike.

python -m faults                  # all of it: 40 minutes of 2 cores; writes docs/reliability.md
python -m faults --only kill      # the trials whose key contains "kill"; writes no report
"""
