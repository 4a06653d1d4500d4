"""The one error that a user sees: a single line with the place and the remedy."""


class UserError(ValueError):
    """A mistake in what was given (data, configuration, arguments); its text is one line for a person."""
