"""The error that a user can act on."""


class UserError(Exception):
    """Something a user can act on: one plain line that names the file or the step."""
