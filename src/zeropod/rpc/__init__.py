"""ttrpc, the protocol between containerd and its shims, and gRPC, which containerd itself speaks.

`frames` and `connection` know the protocol and do no I/O; `server` and `client` drive them over trio streams;
`grpc` makes a single call; `messages` holds the generated protobuf modules. Nothing here knows about containers.
"""
