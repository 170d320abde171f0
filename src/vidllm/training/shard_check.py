"""A look at every shard before the first step: a file that was cut or is no shard is named, with what to do about it.

Only the header is read: a safetensors file says where its tensors end, so that its size tells whether it is whole.
"""

from __future__ import annotations

from pathlib import Path

from vidllm.io.json_files import check_regular_file, parse_json

TENSORS = {"rgb", "depth_m", "instance", "extrinsics", "intrinsics"}
SHOWN = 5  # damaged shards named one by one


def check_shards(folder: Path) -> None:
    """ValueError naming the shards of a folder that are damaged; a place without shards is not looked at."""
    faults = [(path, fault) for path in sorted(folder.glob("rooms_*.safetensors")) if (fault := shard_fault(path))]
    if not faults:
        return
    told = "; ".join(f"{path}: {fault}" for path, fault in faults[:SHOWN])
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    raise ValueError(f"damaged shard{'s' * (len(faults) > 1)} of rooms: {told}{more}; delete and render again")


def shard_fault(path: Path) -> str | None:
    """What is wrong with a shard's header or size; None when nothing is."""
    try:
        size = check_regular_file(path).stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                return "not a safetensors file, or cut"
            header = parse_json(file.read(length), path.name)
        scenes = header.pop("__metadata__", {}).get("scenes")
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return f"its header cannot be read ({' '.join(str(error).split())[:120] or type(error).__name__})"
    if end != size:
        return f"{size} bytes where its header says {end}: cut or overwritten"
    missing = sorted(TENSORS - set(header))
    if missing or scenes is None:
        return f"it lacks {', '.join(missing) or 'the record of its scenes'}"
    return None
