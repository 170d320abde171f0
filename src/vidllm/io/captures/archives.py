"""Archives of recordings (zip, .r3d, tar), unpacked to a temporary folder that exists as long as it is used.

Nothing is written outside that folder: paths that leave it, links and devices are refused. The content may be at most
``MOST_RATIO`` times as large as the archive and must fit on the disk; this is checked before anything is written (zip)
or while it is written (tar).
"""

from __future__ import annotations

import shutil
import stat
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from vidllm.io.files import InputError

MOST_RATIO, SPARE_BYTES = 20, 64 * 2**20  # recordings hold JPEG and compressed depth, which hardly shrink any more
MOST_MEMBERS = 1_000_000
_CHUNK = 2**20
_ZIP, _GZIP, _TAR, _TAR_AT = b"PK\x03\x04", b"\x1f\x8b", b"ustar", 257


class Unpacked:
    """The folder to which an archive was unpacked; it is removed with this object."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        while len(inner := _visible(self.folder)) == 1 and inner[0].is_dir():
            self.folder = inner[0]
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    @contextmanager
    def named(self, archive: str | Path) -> Iterator[None]:
        """Context in which error messages about files of the folder name the archive."""
        try:
            yield
        except ValueError as error:
            raise InputError(str(error).replace(str(self.folder), str(archive))) from error


def _visible(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip or a tar, compressed or not; not NumPy, Office and Java files."""
    with path.open("rb") as file:
        head = file.read(_TAR_AT + len(_TAR))
    return head.startswith((_ZIP, _GZIP)) or head[_TAR_AT:] == _TAR


def unpacked(path: Path) -> Unpacked:
    """The unpacked archive, cached in the process until the file changes; InputError for an unsafe archive."""
    state = path.stat()
    return _unpack(path.absolute(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _unpack(path: Path, size: int, _: int) -> Unpacked:
    folder = Path(tempfile.mkdtemp(prefix="vidllm-capture-"))
    left = min(size * MOST_RATIO + SPARE_BYTES, shutil.disk_usage(folder).free)
    try:
        for number, (name, length, stream) in enumerate(_members(path)):
            left -= length
            if left < 0 or number >= MOST_MEMBERS:
                raise InputError(f"{path}: unpacks to over {MOST_RATIO} times its size, or more than the disk holds or "
                                 f"{MOST_MEMBERS} files; is it a recording? Unpack it and give the folder")  # fmt: skip
            place = folder / _safe(name, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            with stream, place.open("xb") as file:
                shutil.copyfileobj(stream, file, _CHUNK)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, InputError | KeyboardInterrupt | MemoryError):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__  # of zipfile, tarfile, zlib, ...
        raise InputError(f"{path}: not a readable archive ({reason}); is it complete? Export it again") from error
    return Unpacked(folder)


def _safe(name: str, path: Path) -> PurePosixPath:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name:
        raise InputError(f"{path}: holds {name[:100]!r}, which leads out of the archive; nothing is unpacked")
    return pure


def _members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, length and content of every file; InputError for links, devices and encrypted files."""
    with path.open("rb") as file:
        is_zip = file.read(4) == _ZIP
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or info.flag_bits & 1:
                    raise InputError(f"{path}: {info.filename[:100]!r} is a link, a device or encrypted; leave it out")
                if not info.is_dir():
                    yield info.filename, info.file_size, archive.open(info)
        return
    with tarfile.open(path) as tar:
        for member in tar:
            if not member.isfile() and not member.isdir():
                raise InputError(f"{path}: {member.name[:100]!r} is a link or a device; pack the files themselves")
            stream = tar.extractfile(member)
            if stream is not None:
                yield member.name, member.size, stream
