"""Folders of torch.distributed.checkpoint whose metadata are read without running the code that a pickle can hold.

torch's own reader unpickles ``.metadata`` and every entry that is not a tensor without a guard. Here the metadata are
admitted class by class, entries are tensors, and their files are those of the folder.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path, PosixPath, PurePosixPath, WindowsPath
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from vidllm.io.files import check_regular_file
from vidllm.io.tensors import code_refused

NAME = ".metadata"
MAX_BYTES = 64 * 2**20

_CLASSES = {
    ("torch.distributed.checkpoint.metadata", name): getattr(metadata, name)
    for name in ("Metadata", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
                 "StorageMeta", "_MEM_FORMAT_ENCODING")
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): filesystem._StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("collections", "OrderedDict"): OrderedDict,
} | {
    (module, kind.__name__): PurePosixPath for kind in (PosixPath, WindowsPath)
    for module in ("pathlib", "pathlib._local")
} | {
    ("torch", str(kind).removeprefix("torch.")): kind
    for kind in vars(torch).values() if isinstance(kind, torch.dtype)
}  # fmt: skip
#: Opcodes of a pickle that metadata need: no others can fetch classes, or ask for memory that the file does not fill.
_OPCODES = frozenset((
    "PROTO", "FRAME", "STOP", "MEMOIZE", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "GLOBAL", "STACK_GLOBAL",
    "REDUCE", "NEWOBJ", "BUILD", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND",
    "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS",
))  # fmt: skip


class TensorsReader(FileSystemReader):
    """torch's reader of a checkpoint folder, with metadata from :func:`read_metadata`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The folder's metadata; ValueError as :func:`read_metadata`."""
        found = read_metadata(Path(self.path))
        found.storage_meta = StorageMeta(load_id=self.load_id)
        return found


def read_metadata(folder: Path) -> Metadata:
    """What a checkpoint folder holds: tensors alone, all of them in files of the folder.

    Raises:
        ValueError: the metadata are missing, damaged, hold other classes than torch writes for tensors, or name files
            that are not in the folder or end too early.
    """
    path = check_regular_file(folder / NAME)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes of metadata, expected at most {MAX_BYTES:,}; delete "
                         "this checkpoint")  # fmt: skip
    content = path.read_bytes()
    try:
        _check_opcodes(content)
        found = _MetadataUnpickler(io.BytesIO(content)).load()
        _check(found, folder)
    except Exception as error:  # a damaged pickle can raise anything
        reason = code_refused(error) or " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not readable metadata of tensors ({reason}); delete this checkpoint") from None
    assert isinstance(found, Metadata)
    found.storage_meta = None  # where and by whom it was written
    return found


class _MetadataUnpickler(pickle.Unpickler):
    """Admits the classes of tensors' metadata alone."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of this name; UnpicklingError for any that metadata do not need."""
        found = _CLASSES.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return found


def _check_opcodes(content: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in _OPCODES:
            raise ValueError(f"holds a pickle's {opcode.name}")
        if opcode.name == "LONG_BINPUT" and not 0 <= int(argument or 0) <= len(content):
            raise ValueError("damaged")


def _check(found: Any, folder: Path) -> None:
    """ValueError unless every entry is a tensor and lies in files of the folder that are long enough."""
    if not isinstance(found, Metadata):
        raise ValueError(f"holds {type(found).__name__}")
    for name, entry in found.state_dict_metadata.items():
        if not isinstance(name, str) or not isinstance(entry, TensorStorageMetadata):
            raise ValueError(f"{name!r} is not a tensor")
    ends: dict[str, int] = {}
    for info in found.storage_data.values():
        if not isinstance(info, filesystem._StorageInfo) or info.transform_descriptors:
            raise ValueError("entries in another form than plain tensors")
        if Path(info.relative_path).name != info.relative_path:
            raise ValueError(f"names {info.relative_path!r}, a file outside its folder")
        if not (info.offset >= 0 and info.length >= 0):
            raise ValueError("a negative offset or length")
        ends[info.relative_path] = max(ends.get(info.relative_path, 0), info.offset + info.length)
    for name, end in ends.items():
        if check_regular_file(folder / name).stat().st_size < end:
            raise ValueError(f"{name} ends too early")
