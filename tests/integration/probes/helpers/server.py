"""An application with a port for every kind of probe. Runs in the container, as `python3 -c`.

8080 HTTP, 8443 HTTPS, 50051 gRPC with its health service, 9000 a server that speaks first, 9001 an echo of everything
until the end. On 8080 every answer lists the requests before it: path, peer, User-Agent. From `/say/NAME/503` on
`/state/NAME` answers with that status.
"""

import json
import subprocess
import urllib.request
from pathlib import Path

import grpc  # type: ignore[import-untyped, unused-ignore]
from tests.integration import node
from tests.integration.patience import patient
from tests.integration.sleep.helpers.stage import App, Kind, Stage

PROGRAM = r"""
import http.server, json, signal, socket, socketserver, ssl, sys, threading
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, "/site")
import grpc

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
seen, states = [], {}

class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps(seen).encode()
        seen.append((self.path, self.client_address[0], self.headers["User-Agent"]))
        what, name, *status = self.path.split("/")[1:] + [""]
        if what == "say":
            states[name] = int(status[0])
        self.send_response(states.get(name, 200) if what == "state" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass

class First(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"220 " + self.client_address[0].encode() + b"\r\n")
        self.request.recv(1)

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 256

def serve(port, handler, context=None):
    server = Server(("", port), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(3600,), daemon=True).start()

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/cert.pem", "/tls/key.pem")
serve(8080, Web)
serve(8443, Web, context)
serve(9000, First)
serve(9001, Echo)
health = {"Check": grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")}
server = grpc.server(ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),))
server.add_insecure_port("0.0.0.0:50051")
server.start()
print("listening", flush=True)
server.wait_for_termination()
"""

PROBED = 8080
FIRST = 9000
ECHO = 9001
ANSWERED = ("http:8080", "tcp:8080", "grpc:50051")
"""Probes that need no application."""

PROBES = (*ANSWERED, "unnamed:8080", "large:8080", "https:8443")
KIND = Kind("python", 8080, ("-c", PROGRAM))
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
"""The node's, since gRPC and TLS need more of them than the image's Python; it is the same Debian."""


def start(stage: Stage, directory: Path, scaledown: str = "1s", **annotations: str) -> App:
    """Returns at once; `listening` waits."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{directory}/key.pem"]
    command = ["openssl", "req", "-x509", *key, "-days", "2", "-subj", "/CN=probed", "-out", f"{directory}/cert.pem"]
    subprocess.run(command, check=True, capture_output=True, timeout=patient(20))
    mounts = {"/site": str(Path(grpc.__file__).parents[1]), LIBRARIES: LIBRARIES, "/tls": str(directory)}
    pod = stage.pod(scaledown, {key.replace("_", "-"): value for key, value in annotations.items()})
    container = pod.container("probed", KIND.image, args=KIND.args, mounts=mounts)
    return App(KIND, container)


def listening(app: App) -> App:
    node.until(lambda: "listening" in app.output(), "the application listens", 30)
    return app


def get(app: App, path: str, agent: str = "test/1") -> list[list[str]]:
    """The requests before this one: path, peer, User-Agent."""
    request = urllib.request.Request(f"http://{app.address}:{PROBED}{path}", headers={"User-Agent": agent})
    with urllib.request.urlopen(request, timeout=patient(10)) as response:
        seen: list[list[str]] = json.load(response)
        return seen
