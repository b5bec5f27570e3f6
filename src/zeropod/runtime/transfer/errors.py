"""What can go wrong between the two ends of a transfer, by what the caller has to do about it."""


class ProtocolError(Exception):
    """The other end sent what it may not send; the text says what. The connection is of no more use."""


class Refused(Exception):  # noqa: N818 - the other end's answer
    """The other end does not serve this; with its reason."""

    def __init__(self, text: str, *, gone: bool = False) -> None:
        super().__init__(text)
        self.gone = gone
        """Whether it never will again."""


class SourceLost(Exception):  # noqa: N818 - what has happened to it
    """Nothing more comes from the source; the text says why. Nothing was decided by this end."""


class DecisionUnknown(Exception):  # noqa: N818 - what is left
    """The source was asked to give the container away, and whether it did could not be learnt in time.

    The container must not run here until `Fetch.state` answers.
    """
