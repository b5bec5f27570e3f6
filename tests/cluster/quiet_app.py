"""A web server as small as Python makes one, of which hundreds fit on a machine: its source is what pods run."""

import socket

with socket.create_server(("", 8080), backlog=64) as server:
    while True:
        client, _ = server.accept()
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
