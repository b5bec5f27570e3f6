"""What can be wrong with an export that is read: it may come from another node, or be half of what it was."""


class BadExport(Exception):  # noqa: N818 - named for what was found
    """A file of an export is not what it has to be. The text says which file, and what is wrong with it."""
