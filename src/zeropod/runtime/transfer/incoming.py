"""The files of an export on the target's disk, as far as they have arrived, and what is to be asked for next.

Owns the files and their maps (`pager.presence`). They are sparse from the start; a piece is written, then marked. What
is asked for has an order: what a process waits for, what the next wake will touch, then everything else as the files
lie, those that the restore needs first.
"""

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from zeropod.runtime.images import Fingerprint
from zeropod.runtime.pager.files import PagesFile
from zeropod.runtime.pager.presence import PIECE, Filling, Presence
from zeropod.runtime.transfer.contents import Contents, Listed
from zeropod.runtime.transfer.order import StorePiece
from zeropod.runtime.transfer.protocol import DIGEST, Coding, Data, Get
from zeropod.runtime.transfer.zstd import Corrupt, Zstd

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Place = tuple[int, int]
"""(number of the file, number of the piece)."""


@dataclass(slots=True)
class _File:
    listed: Listed
    path: Path
    descriptor: int
    presence: Presence
    to_come: int
    """Pieces."""
    cursor: int = 0
    """All pieces before it are there, or were asked for in order."""


class Incoming:
    """Used by trio's thread, but for `write`."""

    def __init__(self, directory: Path, contents: Contents, wake: Callable[[], None]) -> None:
        """Make the files, none of which may exist; `wake` is called when a piece is wanted. Raises OSError."""
        self._wake = wake
        self._files: list[_File] = []
        self._urgent: dict[Place, None] = {}
        self._wanted: dict[Place, None] = {}
        self._asked: set[Place] = set()
        """Asked for, and not answered."""
        self._again: list[Place] = []
        """Asked for in vain, since the connection broke."""
        self.bytes_to_come = 0
        self._zstd = Zstd()
        try:
            for number, listed in enumerate(contents.files):
                self._files.append(self._made(number, listed, directory / listed.name))
        except BaseException:
            self.close()
            raise
        self._order = sorted(range(len(self._files)), key=lambda number: self._files[number].listed.is_store)
        for file in self._files:
            if not file.to_come:
                self._is_complete(file)

    def _made(self, number: int, listed: Listed, path: Path) -> _File:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            os.ftruncate(descriptor, listed.size)
            presence = Presence(listed.size, lambda piece, urgent: self.need((number, piece), urgent=urgent))
        except BaseException:
            os.close(descriptor)
            raise
        self.bytes_to_come += listed.size
        return _File(listed, path, descriptor, presence, -(-listed.size // PIECE))

    def need(self, place: Place, *, urgent: bool) -> None:
        """Ask for a piece before others. Ignores one that there is or cannot be."""
        number, piece = place
        if number >= len(self._files) or not 0 <= piece * PIECE < self._files[number].listed.size:
            return
        if not self._files[number].presence.has(piece):
            queue = self._urgent if urgent else self._wanted
            queue.setdefault(place)
            self._wake()

    @property
    def urgent(self) -> bool:
        """Whether a process waits for a piece that was not asked for."""
        self._drop_answered(self._urgent)
        return bool(self._urgent)

    def next(self) -> Get | None:
        """Return what to ask for next, and count it as asked for; None if nothing is left."""
        for queue in (self._urgent, self._wanted):
            self._drop_answered(queue)
            if queue:
                return self._ask(next(iter(queue)))
        while self._again:
            place = self._again.pop()
            if place not in self._asked and not self._files[place[0]].presence.has(place[1]):
                return self._ask(place)
        for number in self._order:
            file = self._files[number]
            while (piece := file.presence.next_missing(file.cursor) if file.to_come else -1) >= 0:
                file.cursor = piece + 1
                if (number, piece) not in self._asked:
                    return self._ask((number, piece))
        return None

    def _drop_answered(self, queue: dict[Place, None]) -> None:
        while queue:
            place = next(iter(queue))
            if place not in self._asked and not self._files[place[0]].presence.has(place[1]):
                return
            del queue[place]

    def _ask(self, place: Place) -> Get:
        self._asked.add(place)
        return self._request(*place)

    def _request(self, number: int, piece: int) -> Get:
        offset = piece * PIECE
        return Get(number, offset, min(PIECE, self._files[number].listed.size - offset))

    def in_vain(self, request: Get) -> None:
        """The connection broke before the answer."""
        place = request.file, request.offset // PIECE
        self._asked.discard(place)
        self._again.append(place)

    def store(self, data: Data) -> bool:
        """Check a piece and write it, in a thread, one at a time; return whether it is undamaged. Raises OSError."""
        content = data.payload
        try:
            if data.coding is Coding.ZSTD:
                content = self._zstd.decompress(content, data.length)
            elif data.coding is Coding.ZEROES:
                content = bytes(data.length)
        except Corrupt:
            return False
        if blake2b(content, digest_size=DIGEST).digest() != data.digest:
            return False
        if data.coding is not Coding.ZEROES:  # which the file has already
            file, view, offset = self._files[data.file], memoryview(content), data.offset
            while view:
                written = os.pwrite(file.descriptor, view, offset)
                view, offset = view[written:], offset + written
        return True

    def arrived(self, request: Get) -> None:
        """The piece is stored, or is not needed."""
        file, piece = self._files[request.file], request.offset // PIECE
        self._asked.discard((request.file, piece))
        if not file.presence.has(piece):
            file.presence.mark(piece)
            file.to_come -= 1
            self.bytes_to_come -= request.length
            if not file.to_come:
                self._is_complete(file)

    def _is_complete(self, file: _File) -> None:
        file.presence.complete(Fingerprint.of(os.fstat(file.descriptor)))
        os.close(file.descriptor)
        file.descriptor = -1

    @property
    def small_are_there(self) -> bool:
        """Whether every file that the restore needs is complete."""
        return not any(file.to_come for file in self._files if not file.listed.is_store)

    @property
    def pieces_to_come(self) -> int:
        return sum(file.to_come for file in self._files)

    def pages_files(self) -> dict[int, PagesFile]:
        """Return the page store's files by their numbers there; the caller owns the descriptors. Raises OSError."""
        found: dict[int, PagesFile] = {}
        try:
            for file in self._files:
                if file.listed.is_store:
                    found[file.listed.store_number] = PagesFile.open(file.path, file.presence)
        except OSError:
            for opened in found.values():
                os.close(opened.descriptor)
            raise
        return found

    def limit(self, needed: Collection[StorePiece], first: Iterable[StorePiece]) -> None:
        """Leave out all other pieces of the page store, which no index refers to; ask for `first` before the rest."""
        numbers = {file.listed.store_number: number for number, file in enumerate(self._files) if file.listed.is_store}
        for of_store, number in numbers.items():
            file = self._files[number]
            for piece in range(-(-file.listed.size // PIECE)):
                if (of_store, piece) not in needed and (number, piece) not in self._asked:
                    self.arrived(self._request(number, piece))
        for of_store, piece in first:
            if of_store in numbers:
                self.need((numbers[of_store], piece), urgent=False)

    def lose(self, reason: str) -> None:
        """No more pieces will come."""
        for file in self._files:
            file.presence.lose(reason)

    def close(self) -> None:
        """Close what is still open for writing; what was not complete is lost."""
        self.lose("the shim does not fetch any more")
        for file in self._files:
            if file.presence.filling is not Filling.COMPLETE and file.descriptor >= 0:
                os.close(file.descriptor)
                file.descriptor = -1
