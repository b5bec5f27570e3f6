"""What can go wrong between the manager and the API server, by what is to be done about it."""


class ApiError(Exception):
    """The API server refuses a request, or cannot be asked (status 0)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else message)
        self.status = status
        """Of HTTP; 0 where there was no answer."""
        self.reason = reason
        """Kubernetes' word for it, such as NotFound or Conflict; may be empty."""
        self.message = message
        self.retry_after = retry_after
        """Seconds that the server asks to be left alone for."""

    @property
    def is_gone(self) -> bool:
        """Whether a version of a list or a watch has expired: only a new list helps."""
        return self.status == 410 or self.reason in ("Expired", "Gone")


class Unreachable(ApiError):  # noqa: N818 - says what it is
    """There was no whole answer: no connection, a broken one, a credential that cannot be read, or a timeout."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "", message)


class TooLarge(ApiError):  # noqa: N818 - says what it is
    """An answer exceeds what the client takes."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "TooLarge", message)
