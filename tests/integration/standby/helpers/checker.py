"""An application that checks all of its memory at every request, and changes all of it.

Each page begins with the number of the request that wrote it last; the rest is random and never changes. So a page that
is zero, of another time or of somebody else does not go unnoticed, nor does an application that goes on from an image
although it had run since.
"""

from tests.integration.sleep.helpers.stage import Kind

PROGRAM = r"""
import asyncio, hashlib, os, random, signal, sys

PAGE = 4096
count = int(sys.argv[2]) << 8
memory = bytearray(random.Random(count).randbytes(count * PAGE))
requests = 0

def stamp():
    number = requests.to_bytes(8)
    for start in range(0, len(memory), PAGE):
        memory[start:start + 8] = number

def damage():
    number = requests.to_bytes(8)
    wrong = [start for start in range(0, len(memory), PAGE) if memory[start:start + 8] != number]
    if wrong:
        found = int.from_bytes(memory[wrong[0]:wrong[0] + 8])
        return f"{len(wrong)} of {count} pages are not of request {requests}, the first one of {found}"
    return "" if content() == expected else "the content has changed"

def content():
    sum = hashlib.sha256()
    for start in range(0, len(memory), PAGE):
        sum.update(memory[start + 8:start + PAGE])
    return sum.digest()

async def serve(reader, writer):
    global requests
    try:
        while line := (await reader.readline()).decode().strip():
            word, _, rest = line.partition(" ")
            if word == "next":
                answer = damage()
                if not answer:
                    requests += 1
                    stamp()
                    answer = str(requests)
            else:
                answer = rest
            writer.write(answer.encode() + b"\n")
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()

async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: os._exit(143))
    async with await asyncio.start_server(serve, None, int(sys.argv[1]), backlog=512) as server:
        await server.serve_forever()

stamp()
expected = content()
asyncio.run(main())
"""


def checker(megabytes: int) -> Kind:
    """To `next` it answers how many such requests there were, or what is wrong with its memory."""
    return Kind("python", 8000, ("-c", PROGRAM, "8000", str(megabytes)))
