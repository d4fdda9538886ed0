"""Commands beside the six scripts: `python -m tools.NAME`."""
