"""What the kernel is told of connections of ours."""

from zeropod.kernel.lookup import Flow, Said


class FakeWords:
    def __init__(self) -> None:
        self.said: dict[Flow, Said] = {}

    def say(self, flow: Flow, said: Said) -> None:
        self.said[flow] = said

    def forget(self, flow: Flow) -> None:
        del self.said[flow]
