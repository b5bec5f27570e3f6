"""The installer's error for users."""


class InstallError(Exception):
    """Nothing was changed, or all changes were undone. The text says what is in the way, and what to do."""
