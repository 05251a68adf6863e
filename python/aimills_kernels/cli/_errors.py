"""Exit codes, and the error that a wrong use raises."""

OK, WRONG, INCOMPLETE, WRONG_USE, INTERRUPTED, NO_READER = 0, 1, 2, 3, 130, 141


class UsageError(Exception):
    """A wrong use of the command line; the text is the sentence that the user sees."""
