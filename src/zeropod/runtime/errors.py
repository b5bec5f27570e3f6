"""The exceptions of the runtime layer, each with a text that a user can act on."""


class RuncError(Exception):
    """runc refused or failed; the text is the last error of its log, or else its exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status
        """runc's exit code."""


class CriuError(Exception):
    """A checkpoint or a restore failed; the text carries the end of CRIU's own log."""


class StdioError(Exception):
    """A stream that containerd asked for cannot be opened; the text names it."""


class SpecError(Exception):
    """The bundle's config.json cannot be read, or asks for something impossible."""
