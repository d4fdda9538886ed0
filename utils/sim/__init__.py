"""Real drives: the environment, who drives in it, and the processes that do it."""
