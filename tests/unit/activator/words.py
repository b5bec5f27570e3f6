"""What the kernel is told of connections of ours."""

from zeropod.kernel.lookup import Flow, FlowOrigin


class FakeWords:
    def __init__(self) -> None:
        self.said: dict[Flow, FlowOrigin] = {}

    def tag_flow(self, flow: Flow, said: FlowOrigin) -> None:
        self.said[flow] = said

    def untag_flow(self, flow: Flow) -> None:
        del self.said[flow]
