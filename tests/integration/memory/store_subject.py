"""What subject.c does, where there is no compiler: see there. Slower to wake, as an interpreter touches more pages."""

import ctypes
import mmap
import os
import random
import struct
import sys

PAGE = 4096
ZERO = 0xFFFF

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
OWN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class Memory:
    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.size = pages * PAGE
        self.at = libc.mmap(None, self.size, READ_WRITE, OWN, -1, 0)
        self.generations = [0] * pages
        for page in range(pages):
            self.fill(page, 0)

    def contents(self, page: int, generation: int) -> bytes:
        if generation == ZERO:
            return bytes(PAGE)
        return struct.pack("=QQ", page * 2654435761 + 1, generation + 77) * (PAGE // 16)

    def fill(self, page: int, generation: int) -> None:
        ctypes.memmove(self.at + page * PAGE, self.contents(page, generation), PAGE)
        self.generations[page] = generation

    def right(self, page: int) -> bool:
        found = ctypes.string_at(self.at + page * PAGE, PAGE)
        return found == self.contents(page, self.generations[page])

    def wrong(self) -> str:
        return next((f"page {page} is wrong" for page in range(self.pages) if not self.right(page)), "right")


def child(memory: Memory, number: int) -> int:
    for _ in range(number):
        page = random.randrange(memory.pages)
        if not memory.right(page):
            return 1
        memory.fill(page, 1001)
        if not memory.right(page):
            return 2
    return 0


def do(memory: Memory, command: str, numbers: list[int]) -> str:
    match command:
        case "p":
            chosen = [random.randrange(memory.pages) for _ in range(numbers[0])]
            return next((f"page {page} is wrong" for page in chosen if not memory.right(page)), "right")
        case "d":
            return memory.wrong()
        case "w":
            for _ in range(numbers[0]):
                page = random.randrange(memory.pages)
                memory.fill(page, (memory.generations[page] + 1) % 1000)
            return "done"
        case "z":
            for _ in range(numbers[0]):
                page = random.randrange(memory.pages)
                memory.generations[page] = ZERO
                libc.madvise(memory.at + page * PAGE, PAGE, mmap.MADV_DONTNEED)
            return "done"
        case "m":
            to = libc.mmap(None, memory.size, 0, OWN, -1, 0)
            memory.at = libc.mremap(memory.at, memory.size, memory.size, 3, to)
            return "done"
        case "n":
            size = numbers[0] * PAGE
            new = libc.mmap(None, size, READ_WRITE, OWN, -1, 0)
            ctypes.memset(new, 7, size)
            libc.munmap(new, size)
            return "done"
        case "f":
            pid = os.fork()
            if pid == 0:
                os._exit(child(memory, numbers[0]))
            return "right" if os.waitpid(pid, 0)[1] == 0 else "the child is wrong"
        case "k":
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0 if memory.wrong() == "right" else 1)
            os.close(reading)
            return f"{pid} {writing}"
        case "e":
            os.close(numbers[1])
            return "right" if os.waitpid(numbers[0], 0)[1] == 0 else "the child is wrong"
    return "?"


def main() -> None:
    memory = Memory(int(sys.argv[-1]) * 256)
    print("ready", flush=True)
    for line in sys.stdin:
        print(do(memory, line[0], [int(word) for word in line[1:].split()]), flush=True)


if __name__ == "__main__":
    main()
