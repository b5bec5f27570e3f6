"""The application of most tests, run in a container as ``python3 -c``: a web server that remembers what it is told.

    GET /            the value that was set last, and how many requests there have been
    POST /           sets the value to the body
    GET /file/PATH   a file's contents
    GET /slow/N      the same as /, after N seconds
    GET /sum         a checksum over its memory

The environment says the rest: PORTS to listen on, START_SECONDS until it listens, END_SECONDS that it takes to shut
down at SIGTERM, writing a line each second, and then `done`; MEMORY_MIB of random bytes that it keeps.
"""

import http.server
import os
import signal
import socket
import sys
import threading
import time
import zlib

value, requests = "nothing", 0
ballast = [os.urandom(1 << 20) for _ in range(int(os.environ.get("MEMORY_MIB", "0")))]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        global requests
        status = 200
        if self.path.startswith("/file/"):
            try:
                with open(self.path.removeprefix("/file")) as file:
                    body = file.read()
            except OSError as error:
                status, body = 404, str(error)
        elif self.path == "/sum":
            body = str([zlib.crc32(each) for each in ballast])
        else:
            if self.path.startswith("/slow/"):
                time.sleep(float(self.path.removeprefix("/slow/")))
            requests += not self.headers.get("User-Agent", "").startswith("kube-probe/")
            body = f"{value} {requests}"
        self.answer(status, body)

    def do_POST(self) -> None:
        global value
        value = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.answer(200, value)

    def answer(self, status: int, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Only says what tests look for."""


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6  # and IPv4 with it
    request_queue_size = 128
    daemon_threads = True


def end(*_: object) -> None:
    for second in range(int(os.environ.get("END_SECONDS", "0"))):
        print("ending", second, flush=True)
        time.sleep(1)
    print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    time.sleep(float(os.environ.get("START_SECONDS", "0")))
    for port in os.environ.get("PORTS", "8080").split(","):
        threading.Thread(target=Server(("::", int(port)), Handler).serve_forever, daemon=True).start()
    print("listening", flush=True)
    for line in sys.stdin:
        print("heard", line.strip(), flush=True)
    while True:
        signal.pause()
