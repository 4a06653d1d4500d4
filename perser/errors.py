"""The one exception meant for users: its text is a single line that names the place and the remedy."""


class UserError(ValueError):
    """A mistake in the input (data, configuration or arguments), explained in one line."""
