"""Errors between the manager and the API server, by how they are handled."""


class ApiError(Exception):
    """The API server refuses a request, or cannot be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else message)
        self.status = status
        """The HTTP status; 0 without a response."""
        self.reason = reason
        """Kubernetes' reason, such as NotFound or Conflict; may be empty."""
        self.message = message
        self.retry_after = retry_after
        """Seconds for which the server asks not to be contacted."""

    @property
    def is_gone(self) -> bool:
        """Whether a version of a list or a watch has expired: only a new list helps."""
        return self.status == 410 or self.reason in ("Expired", "Gone")


class Unreachable(ApiError):  # noqa: N818 - says what it is
    """There was no complete response: no connection, a broken one, an unreadable credential, or a timeout."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "", message)


class TooLarge(ApiError):  # noqa: N818 - says what it is
    """A response exceeds the client's limit."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "TooLarge", message)
