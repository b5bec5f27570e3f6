"""The one error of the installer that a user is meant to read."""


class InstallError(Exception):
    """Nothing was changed, or all changes were undone; says what is in the way and what to do about it."""
