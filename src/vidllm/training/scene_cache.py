"""Videos seen once: the frozen encoder's tokens and where each patch lies, kept on disk and read by every step.

Fine-tuning leaves encoder and geometry as they are, so what they say of a video never changes. The geometry is the
model's own: no ground truth is needed. One safetensors file a video, named by video, model and settings, written to a
temporary name and moved into place: filling can be stopped at any moment and goes on with the next video.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidllm.io.atomic import atomic_path
from vidllm.io.files import has_file
from vidllm.model.modeling import VidLLMForConditionalGeneration
from vidllm.model.processing import VidLLMProcessor
from vidllm.training.starting import LANGUAGE_HALF
from vidllm.training.teachers import weights_name


@dataclass
class SeenScene:
    """A video as the frozen parts see it.

    tokens (1,F,P,C) of the encoder, positions (1,F,P,3) of the patches in the scene frame, metres, valid (1,F,P).
    """

    tokens: Tensor
    positions: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> SeenScene:
        """The same on a device, tokens in single precision."""
        return SeenScene(self.tokens.to(device).float(), self.positions.to(device), self.valid.to(device))


def _checked(seen: SeenScene, width: int) -> SeenScene:
    """The scene; ValueError for tensors of other shapes or types than the encoder and the geometry give."""
    shape = seen.tokens.shape[:3]
    fits = (
        seen.tokens.ndim == 4 and seen.tokens.shape[-1] == width and seen.tokens.is_floating_point()
        and seen.positions.shape == (*shape, 3) and seen.positions.is_floating_point()
        and seen.valid.shape == shape and seen.valid.dtype == torch.bool
    )  # fmt: skip
    if not fits:
        raise ValueError("not the tokens of a scene")
    return seen


class SceneCache:
    """What a model sees of videos; ``frames`` of each are sampled (the model's own number when None)."""

    def __init__(
        self,
        model: VidLLMForConditionalGeneration,
        processor: VidLLMProcessor,
        folder: Path,
        frames: int | None = None,
    ) -> None:
        self.model, self.reader, self.folder = model, processor.image_processor, folder
        self.frames = frames or self.reader.num_frames
        seeing = {k: v for k, v in model.state_dict().items() if k.split(".")[0] not in LANGUAGE_HALF}
        about = f"{self.frames} {self.reader.shorter_side} {self.reader.resize_mode} {model.config.scale}"
        self.name = weights_name(seeing, about)

    def path(self, video: Path) -> Path:
        """Where a video's tokens lie; another file once the video or the model has changed."""
        files = sorted(p for p in video.iterdir() if p.is_file()) if video.is_dir() else [video]
        stamps = [(str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
        key = hashlib.sha256(f"{self.name} {stamps}".encode()).hexdigest()[:16]
        return self.folder / f"{video.stem[:40]}-{key}.safetensors"

    def scene(self, video: Path) -> SeenScene:
        """What is kept of a video; seen now where nothing is, or where its file is damaged."""
        path = self.path(video)
        if has_file(path):
            try:
                return _checked(SeenScene(**load_file(path)), self.model.config.encoder.hidden_size)
            except (SafetensorError, OSError, TypeError, ValueError):
                path.unlink(missing_ok=True)
        seen = self._see(video)
        with atomic_path(path) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in vars(seen).items()}, temporary)
        return seen

    def fill(self, videos: Sequence[Path], tell: Callable[[int, int], None] | None = None) -> None:
        """See every video that is not kept yet; ``tell`` hears (videos done, videos to do)."""
        missing = [video for video in videos if not self.path(video).exists()]
        for done, video in enumerate(missing, 1):
            self.scene(video)
            if tell is not None:
                tell(done, len(missing))

    @torch.no_grad()
    def _see(self, video: Path) -> SeenScene:
        parameter = next(self.model.encoder.parameters())
        images = self.reader.read(video, self.frames).images[None].to(parameter.device, parameter.dtype)
        features = self.model.encode(images)
        geometry = self.model.metric_geometry(features, self.model.predict_cameras(features))
        positions, valid = self.model.patch_positions(geometry, features.encoder.grid)
        tokens = features.encoder.tokens
        half = tokens.half()
        return SeenScene(half if bool(half.isfinite().all()) else tokens.float(), positions, valid)
