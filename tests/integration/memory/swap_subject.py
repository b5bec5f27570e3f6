"""A process with memory of every kind that swap is to take; says what is in it when asked.

Started with the MiB of its own memory and of memory that it shares with a forked child. The child has both: it never
writes, so that all of it stays shared between the two. Commands are lines on standard input.
"""

import hashlib
import mmap
import os
import random
import sys

MEBIBYTE = 1 << 20


def main() -> None:
    own, shared = (int(word) * MEBIBYTE for word in sys.argv[1:])
    memory, common = (
        mmap.mmap(-1, own, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
        mmap.mmap(-1, max(shared, mmap.PAGESIZE)),
    )
    source = random.Random(own)
    for filled, size in ((memory, own), (common, shared)):
        for at in range(0, size, MEBIBYTE):
            filled[at : at + MEBIBYTE] = source.randbytes(MEBIBYTE // 2) * 2
    child = 0
    if shared:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)  # until the parent ends
            os._exit(0)
    print(f"ready {child}", flush=True)
    for line in sys.stdin:
        match line.split():
            case ["digest"]:
                digest = hashlib.blake2b(memory)
                digest.update(common)
                print(digest.hexdigest(), flush=True)
            case ["first"]:
                print(memory[0], flush=True)
            case ["read", file]:
                with open(file, "rb") as opened:
                    while opened.read(MEBIBYTE):
                        pass
                print("read", flush=True)
            case ["write", place]:
                memory[int(place)] = (memory[int(place)] + 1) % 256
                print("written", flush=True)


if __name__ == "__main__":
    main()
