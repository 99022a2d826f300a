"""The one exception that a user is meant to read."""


class BipvlError(Exception):
    """Bad input, told in one sentence: what is wrong, where, and what to do.

    The command line prints the sentence and exits with 1; it never shows a traceback for it.
    """
