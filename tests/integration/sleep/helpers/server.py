"""The Python application: a line in, a line out, on IPv4 and IPv6. Runs in the container, as `python3 -c`.

python3 -c PROGRAM PORT MEGABYTES
"""

import hashlib
import random

PROGRAM = r"""
import asyncio, hashlib, mmap, os, random, signal, sys

ports, megabytes = [int(port) for port in sys.argv[1].split(",")], int(sys.argv[2])
memory = random.Random(ports[0]).randbytes(megabytes << 20)
count, kept, shared = 0, None, None
background = []

async def tick(pause):
    number = 0
    while True:
        print("tick", number, flush=True)
        number += 1
        await asyncio.sleep(pause)

async def read_stdin(loop):
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print("stdin:", line.decode(), end="", flush=True)
    print("stdin ended", flush=True)

async def ask(other, line):
    reader, writer = await asyncio.open_connection("localhost", int(other))
    answer = await ask_again(reader, writer, line)
    writer.close()
    return answer

async def ask_again(reader, writer, line):
    writer.write(line.encode() + b"\n")
    return (await reader.readline()).decode().strip()

async def serve(reader, writer):
    global count, kept, shared
    mine = 0
    try:
        while line := await reader.readline():
            word, _, rest = line.decode().rstrip("\n").partition(" ")
            answer = rest
            if word == "count":
                count += 1
                mine += 1
                answer = f"{count} {mine}"
            elif word == "peer":
                answer = writer.get_extra_info("peername")[0]
            elif word == "pid":
                answer = str(os.getpid())
            elif word == "say":
                print(rest, flush=True)
            elif word == "tick":
                background.append(asyncio.create_task(tick(float(rest))))
            elif word == "memory":
                answer = hashlib.sha256(memory).hexdigest()
            elif word == "burn":
                answer = hashlib.pbkdf2_hmac("sha256", b"", b"", int(rest)).hex()
            elif word == "exit":
                os._exit(int(rest))
            elif word == "ask":
                answer = await ask(*rest.split(" ", 1))
            elif word == "keep":
                kept = await asyncio.open_connection("localhost", int(rest))
            elif word == "kept":
                answer = await ask_again(*kept, rest)
            elif word == "dial":
                background.append(asyncio.create_task(serve(*await asyncio.open_connection(*rest.split()))))
            elif word == "share":
                shared = mmap.mmap(-1, int(rest) << 20)
                shared.write(random.Random(1).randbytes(int(rest) << 20))
            elif word == "shared":
                answer = hashlib.sha256(shared).hexdigest()
            elif word == "delay":
                await asyncio.sleep(float(rest))
            writer.write(answer.encode() + b"\n")
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()

async def main():
    # Pid 1 has no default handler.
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: (print("got SIGTERM", flush=True), os._exit(143)))
    loop.add_signal_handler(signal.SIGUSR1, lambda: print("got SIGUSR1", flush=True))
    if sys.argv[3:] == ["stdin"]:
        background.append(asyncio.create_task(read_stdin(loop)))
    for port in ports:
        background.append(await asyncio.start_server(serve, None, port, backlog=512, limit=1 << 20))
    print("listening", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def shared(megabytes: int) -> str:
    """What a server must answer to `shared` that was told to `share` so many megabytes."""
    return hashlib.sha256(random.Random(1).randbytes(megabytes << 20)).hexdigest()


def memory(port: int, megabytes: int) -> str:
    """What a server on this port must answer to `memory`."""
    return hashlib.sha256(random.Random(port).randbytes(megabytes << 20)).hexdigest()
