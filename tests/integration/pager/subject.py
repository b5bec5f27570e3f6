"""A process with missing pages, as CRIU restores one: it sends its userfaultfd to a pager, then does as it is told.

Started with the pager's socket and, in hexadecimal, the address and in decimal the number of pages of its memory.
Commands are lines on standard input; each is answered by a line.
"""

import ctypes
import mmap
import os
import socket
import struct
import sys

from zeropod.kernel import userfault

PAGE = mmap.PAGESIZE
FINISHED = 0x52535446
MAP_FIXED_NOREPLACE = 0x100000
MREMAP_MAYMOVE_FIXED = 3
DONTNEED = 4

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def contents(address: int) -> bytes:
    return struct.pack("<Q", address ^ 0x5A5A5A5A5A5A5A5A) * (PAGE // 8)


def wrong(address: int, pages: int, origin: int) -> str:
    """Compares with what the image holds for `origin`; origin 0: zeroes."""
    for number in range(pages):
        expected = contents(origin + number * PAGE) if origin else bytes(PAGE)
        if ctypes.string_at(address + number * PAGE, PAGE) != expected:
            return f"page {number} at {address + number * PAGE:#x} is wrong"
    return "right"


def checked(result: int | None) -> str:
    return "done" if result != -1 and result != ctypes.c_void_p(-1).value else os.strerror(ctypes.get_errno())


def do(command: str, numbers: list[int]) -> str:
    match command:
        case "check":
            return wrong(*numbers)
        case "fork":
            pid = os.fork()
            if pid == 0:
                os._exit(0 if wrong(*numbers) == "right" else 1)
            return "right" if os.waitpid(pid, 0)[1] == 0 else "wrong in the child"
        case "discard":
            return checked(libc.madvise(*numbers, DONTNEED))
        case "unmap":
            return checked(libc.munmap(*numbers))
        case "move":
            old, new, length = numbers
            return checked(libc.mremap(old, length, length, MREMAP_MAYMOVE_FIXED, new))
        case "map":
            protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            return checked(libc.mmap(*numbers, protection, flags | MAP_FIXED_NOREPLACE, -1, 0))
    return f"{command}?"


def main() -> None:
    path, address, pages = sys.argv[1], int(sys.argv[2], 16), int(sys.argv[3])
    do("map", [address, pages * PAGE])
    uffd = userfault.open()
    userfault.register(uffd, address, pages * PAGE)
    with socket.socket(socket.AF_UNIX) as pager:
        pager.connect(path)
        pager.sendall(struct.pack("=i", 1))
        socket.send_fds(pager, [b"\0"], [uffd])
        pager.sendall(struct.pack("=I", FINISHED))
    os.close(uffd)
    print("restored", flush=True)
    for line in sys.stdin:
        command, *numbers = line.split()
        print(do(command, [int(number) for number in numbers]), flush=True)


if __name__ == "__main__":
    main()
