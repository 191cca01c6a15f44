"""The exceptions that mean "the user can mend this"."""


class UserError(ValueError):
    """A mistake in params, a file, an argument or a download.

    The message is for people: it names the key, file or tensor and says what would be right.
    Commands print it as one line and exit with status 1; anything else keeps its traceback.
    """


class Problems(UserError):
    """Several mistakes of one file, each in a line of its own."""


class Unavailable(UserError):
    """What was asked for cannot be had now; another address, or another day, may have it."""
