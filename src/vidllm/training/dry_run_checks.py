"""What a training run will want, looked at before its first step: data, starting weights, teachers, room on the disk.

Headers and configurations are read, never the weights themselves. Every finding is one line that names the place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from vidllm.io.weight_files import open_checkpoint, settings_in
from vidllm.model.auto import KINDS, load_config
from vidllm.model.weight_check import check_weights
from vidllm.rooms.shards import Shard, plan_shards
from vidllm.training.checkpoints import list_checkpoints
from vidllm.training.config import TrainConfig
from vidllm.training.estimates import AnyConfig, Counts, model_settings, teacher_settings
from vidllm.training.shard_check import check_shards
from vidllm.training.stage1 import Stage1Config

HALF = 2  # bytes of a number in the model folder that comes out


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its name, whether it is as it must be, and what was found."""

    what: str
    good: bool
    told: str


def look(config: AnyConfig, counts: Callable[[], Counts]) -> Iterator[Finding]:
    """All findings; ``counts`` is asked for when the disk is looked at."""
    yield _finding("data", lambda: data_told(config))
    yield _finding("tokenizer", lambda: _tokenizer_told(config))
    yield _finding("weights", lambda: _start_told(config))
    if isinstance(config, Stage1Config):
        yield _finding("geometry teacher", lambda: _teacher_told(config.teacher_geometry, "geometry"))
        yield _finding("language teacher", lambda: _teacher_told(config.teacher_language, "language"))
        yield _finding("teachers", lambda: _widths_told(config))
    yield _finding("output", lambda: _output_told(config, counts()))


def _finding(what: str, tell: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, tell())
    except (ValueError, OSError) as error:
        return Finding(what, False, " ".join(str(error).split()))


def shard_sizes(folder: Path) -> dict[tuple[int, int, int], int]:
    """Scenes by (frames, height, width), from the shards' headers."""
    found: dict[tuple[int, int, int], int] = {}
    for path in sorted(folder.glob("rooms_*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            scenes, frames, height, width, _ = file.get_slice("rgb").get_shape()
        found[frames, height, width] = found.get((frames, height, width), 0) + scenes
    return found


def largest_frame(config: AnyConfig) -> tuple[int, int]:
    """(H, W) of the data's largest frames; of the preset's where there are no readable data."""
    try:
        sizes = [(h, w) for _, h, w in shard_sizes(Path(config.data))]
    except Exception:  # a damaged shard: safetensors has an error of its own; the finding of the data names it
        sizes = []
    if not sizes:
        side = model_settings(config).shorter_side
        sizes = [(height, width) for _, height, width in plan_shards(0, 64, shorter_side=side)]
    return max(sizes, key=_area)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def data_told(config: AnyConfig) -> str:
    """Shards, scenes and frame sizes; ValueError where something is missing, damaged or does not fit."""
    folder = Path(config.data)
    paths = sorted(folder.glob("rooms_*.safetensors"))
    if not paths:
        raise ValueError(f"no shards of rooms in {folder}; render some: vidllm rooms shards -o {folder}")
    check_shards(folder)
    sizes = shard_sizes(folder)
    patch = model_settings(config).encoder.patch_size
    odd = [f"{h}x{w}" for _, h, w in sizes if h % patch or w % patch]
    if odd:
        raise ValueError(f"{folder}: frames of {', '.join(odd)} are not whole patches of {patch} pixels")
    wanted, shortest = max(config.clip_frames), min(frames for frames, _, _ in sizes)
    if wanted > shortest:
        raise ValueError(
            f"{folder}: clips of {wanted} frames are asked for (clip_frames) and some scenes have {shortest}; "
            "render more frames, or lower --clip-frames"
        )
    told = ", ".join(f"{n} scenes of {f} frames {h}x{w}" for (f, h, w), n in sorted(sizes.items()))
    return f"{folder}: {len(paths)} shards, {told}"


def _tokenizer_told(config: AnyConfig) -> str:
    own = Path(config.out) / "tokenizer"
    if (own / "tokenizer.json").is_file():
        return f"{own}, the run's own"
    if config.init_from:
        if Path(config.init_from).is_dir() and not any(Path(config.init_from).glob("tokenizer*")):
            raise ValueError(f"{config.init_from}: no tokenizer beside the weights; write the model with its processor")
        return f"that of {config.init_from}"
    first = next(iter(sorted(Path(config.data).glob("rooms_*.safetensors"))), None)
    if first is None or not Shard(first).records[0].get("language"):
        raise ValueError(f"{config.data}: no language to train a tokenizer on; render shards, or give --init-from")
    return "will be trained on the data's words"


def _start_told(config: AnyConfig) -> str:
    told = [f"fresh weights of {config.preset}"]
    if config.init_from:
        check_start(config.init_from)
        told = [f"{config.init_from}, whole"]
    language = config.language_from if isinstance(config, TrainConfig) else None
    if language:
        settings = settings_in(language)
        if settings is None:
            raise ValueError(f"{language}: no model here (config.json is missing); give --language-from a folder")
        text = settings.get("text_config", settings)
        ours = model_settings(config).text_config
        theirs, wanted = ((form.get("num_hidden_layers"), form.get("hidden_size")) for form in (text, ours.to_dict()))
        if theirs != wanted:
            raise ValueError(f"{language}: its language model has (layers, width) {theirs}, this run's {wanted}")
        told.append(f"its language from {language}")
    return ", ".join(told)


def check_start(place: str) -> None:
    """ValueError where a folder lacks weights of the model it describes, or has them in another shape."""
    settings = load_config(place)
    check_weights(open_checkpoint(place), settings, KINDS[settings.model_type][1])


def _teacher_told(place: str, which: str) -> str:
    if not place:
        raise ValueError(f"stage 1 needs both teachers; give --teacher-{which} MODEL")
    weights = open_checkpoint(place)
    kind = (weights.settings() or {}).get("model_type")
    if which == "geometry" and kind == "vidllm":
        check_start(place)
    named = "" if kind is None else f", {kind}"
    return f"{place}: {len(weights.shards)} file{'s' * (len(weights.shards) != 1)} of weights{named}"


def _widths_told(config: Stage1Config) -> str:
    geometry, tower = teacher_settings(config)
    wide = geometry.hidden_size * (1 if config.geometry_source == "encoder" else 2)
    if config.structure == "joint" and config.structure_weight > 0 and wide != tower.hidden_size:
        raise ValueError(f"they are {wide} and {tower.hidden_size} wide: take teachers of one width, or "
                         "--structure streams")  # fmt: skip
    return f"{wide} and {tower.hidden_size} wide, structure {config.structure}"


def _output_told(config: AnyConfig, counts: Counts) -> str:
    out = Path(config.out)
    parent = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{out}: cannot write there ({parent} is not a writable folder)")
    need = counts.checkpoint_bytes * (config.keep_checkpoints + 1) + HALF * counts.model
    free = shutil.disk_usage(parent).free
    if free < need:
        raise ValueError(f"{out}: {gib(need)} are needed ({config.keep_checkpoints + 1} checkpoints of "
                         f"{gib(counts.checkpoint_bytes)} and the model) and {gib(free)} are free")  # fmt: skip
    saved = list_checkpoints(out / "checkpoints")
    resumed = f", goes on from {saved[-1].name}" if saved else ""
    return f"{out}: {gib(need)} needed at most, {gib(free)} free{resumed}"


def gib(size: int) -> str:
    """Bytes as GiB, or as MiB where there are few."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"
