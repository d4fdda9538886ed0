"""Commands beside the six scripts: `python -m tools.NAME`."""

import utils.viz  # noqa: F401  imports matplotlib safely, before the modules here import it
