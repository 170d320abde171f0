"""Video, text and coordinates to tensors, and ids back to text: the seam between a user's files and the model.

``VidLLMProcessor`` pairs a frame processor (decoding, sampling, resizing) with a tokenizer. A text holds one
``<video>`` for its scene; the model, not the processor, decides how many 3D patches stand there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_backends import PilBackend
from transformers.processing_utils import ImagesKwargs

from vidllm.io.frames import Frames, Resize
from vidllm.io.video import iter_frames, load_frames
from vidllm.model.configuration import VidLLMConfig
from vidllm.model.prompts import CHAT_TEMPLATE, COORD_TOKEN, LOC_TOKEN, VIDEO_TOKEN
from vidllm.model.text import decode_answers, forget_origin, special_token_ids
from vidllm.model.text_batch import TextOptions, encode_batch


class VideoFrameKwargs(ImagesKwargs, total=False):
    """What a call may override of :class:`VidLLMVideoFrameProcessor`."""

    num_frames: int
    shorter_side: int
    resize_mode: Resize
    patch_size: int


class VidLLMVideoFrameProcessor(PilBackend):
    """Sources (file, folder, list of images, array) to frames (B,F,3,H,W) in [0,1], H and W multiples of the patch.

    num_frames: frames sampled uniformly, fewer when the video is shorter [P: 32]. shorter_side: pixels [P: 518].
    resize_mode: ``shorter_side`` (paper) or ``longer_side`` (VGGT's loader).
    """

    valid_kwargs = VideoFrameKwargs
    model_input_names = ["pixel_values"]
    num_frames = 32
    shorter_side = 518
    resize_mode: Resize = "shorter_side"
    patch_size = 14
    do_normalize = False  # ImageNet's mean and deviation are applied inside the encoder

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def read(self, source: Any, num_frames: int | Sequence[int] | None = None) -> Frames:
        """One source's frames with the affine from original pixels; ValueError when it holds no picture."""
        return load_frames(
            source,
            self.num_frames if num_frames is None else num_frames,
            shorter_side=self.shorter_side,
            resize=self.resize_mode,
            patch_size=self.patch_size,
        )

    def stream(self, source: Any, num_frames: int | Sequence[int] | None = None) -> Iterator[Frames]:
        """One source's frames one by one, each decoded when it is asked for; all of them when ``num_frames`` is None.

        The source may be an iterator of images as well, such as a live camera.
        """
        return iter_frames(
            source,
            num_frames,
            shorter_side=self.shorter_side,
            resize=self.resize_mode,
            patch_size=self.patch_size,
        )

    def preprocess(
        self, images: Sequence[Any], num_frames: int | None = None, return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """``pixel_values`` (B,F,3,H,W) of B sources; ValueError when they differ in frames or size."""
        clips = [self.read(source, num_frames).images for source in images]
        shapes = {tuple(clip.shape) for clip in clips}
        if len(shapes) > 1:
            raise ValueError(
                f"sources of one batch must agree in frames and size, received (F, 3, H, W) {sorted(shapes)}; "
                "process them one by one, or choose a smaller num_frames"
            )
        return BatchFeature({"pixel_values": torch.stack(clips)}, tensor_type=return_tensors)


class VidLLMProcessor(ProcessorMixin):
    """Frames, text and coordinates of a batch as the model's inputs; ``save_pretrained`` and ``from_pretrained``.

    The tokenizer must have ``<video>``, ``<loc>`` and ``<coord>`` (``add_special_tokens_for``); ValueError otherwise.
    """

    def __init__(
        self,
        image_processor: VidLLMVideoFrameProcessor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        ids = special_token_ids(tokenizer)
        self.video_token_id = ids[VIDEO_TOKEN]
        self.loc_token_id = ids[LOC_TOKEN]
        self.coord_token_id = ids[COORD_TOKEN]

    @classmethod
    def from_config(cls, config: VidLLMConfig, tokenizer: PreTrainedTokenizerBase) -> VidLLMProcessor:
        """The processor of a configuration: its frames, sizes and patch."""
        frames = VidLLMVideoFrameProcessor(
            num_frames=config.default_frames,
            shorter_side=config.shorter_side,
            resize_mode=config.resize,
            patch_size=config.encoder.patch_size,
        )
        return cls(frames, forget_origin(tokenizer))

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        *,
        coordinates: Any = None,
        num_frames: int | None = None,
        do_sample_frames: bool = True,
        return_tensors: str | None = "pt",
        **text_options: Any,
    ) -> BatchFeature:
        """A batch of texts and their scenes.

        text: one prompt or B. videos: one source for one text (file, folder, list of images, array), or a list of B.
        images: in place of videos, one image or a list of them for one text, or a list of B; a text's images are one
        scene. coordinates: scene points in metres, (3) or (N,3) for one text, B of them for B; one a ``<coord>``.
        text_options: the fields of :class:`TextOptions` (``padding``, ``truncation``, ``max_length``, ...).

        Returns ``input_ids`` and ``attention_mask`` (B,L), ``pixel_values`` (B,F,3,H,W) in [0,1] with a scene, and
        ``coordinates`` (B,N,3) with points (rows with fewer are filled with zeros at the end). Frames are always
        sampled; ValueError where texts, scenes and points do not fit together, TypeError for an unknown option.
        """
        options = TextOptions(**text_options)
        if audio is not None:
            raise ValueError("expected text with videos or images, received audio; leave it out")
        if images is not None and videos is not None:
            raise ValueError("a scene is a video or its images, received both; pass one of them")
        if not do_sample_frames:
            raise ValueError("frames are always sampled uniformly; pass num_frames to choose how many")
        if text is None and videos is None and images is None:
            raise ValueError("expected text, videos or both; received neither")
        data: dict[str, Any] = {}
        single = text is None or isinstance(text, str)
        texts = [] if text is None else [text] if isinstance(text, str) else list(text)
        if texts:
            data.update(encode_batch(self.tokenizer, texts, options, to_tensors=return_tensors is not None))
        offsets = data.pop("offset_mapping", None)
        if videos is not None or images is not None:
            if images is not None:
                sources = _clips_of_images(images, max(1, len(texts)))
            else:
                sources = [_unwrap(videos)] if single else _one_each(videos, len(texts))
            self._check_scenes(texts)
            data.update(self.image_processor.preprocess(sources, num_frames, return_tensors=None))
        points = _points_of(texts, [coordinates] if single else coordinates)
        if points is not None:
            data["coordinates"] = points
        batch = BatchFeature(data, tensor_type=return_tensors)
        if offsets is not None:
            batch["offset_mapping"] = offsets  # as lists: rows of pairs
        return batch

    def decode_answers(self, ids: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Texts of generated ids (B,L), new tokens only: cut at the end token, without special tokens."""
        return decode_answers(self.tokenizer, ids.tolist() if isinstance(ids, Tensor) else ids)

    @property
    def model_input_names(self) -> list[str]:
        """Names of all tensors a call may return."""
        return ["input_ids", "attention_mask", "pixel_values", "coordinates"]

    @staticmethod
    def _check_scenes(texts: Sequence[str]) -> None:
        for i, text in enumerate(texts):
            count = text.count(VIDEO_TOKEN)
            if count != 1:
                raise ValueError(f"text {i} has {count} {VIDEO_TOKEN} tokens; a video needs exactly one")


def _unwrap(source: Any) -> Any:
    """The source inside a list of one (as chat templates nest them); a list of images is itself a source."""
    while isinstance(source, list | tuple) and len(source) == 1 and _is_source(source[0]):
        source = source[0]
    return source


def _is_source(value: Any) -> bool:
    if isinstance(value, str | os.PathLike | list | tuple):
        return True
    return isinstance(value, np.ndarray | Tensor) and value.ndim == 4


def _clips_of_images(images: Any, count: int) -> list[list[Any]]:
    """The images of each of ``count`` texts; ValueError where a text has none."""
    rows = images if isinstance(images, list | tuple) else [images]
    nested = [isinstance(row, list | tuple) for row in rows]
    if count == 1 and not all(nested):
        rows = [rows]
    elif len(rows) != count:
        raise ValueError(f"expected images for {count} texts, received {len(rows)}; give a list of each text's images")
    clips = [list(row) if isinstance(row, list | tuple) else [row] for row in rows]
    if not all(clips):
        raise ValueError(f"text {[bool(c) for c in clips].index(False)} has no image; every text of a batch needs one")
    return clips


def _one_each(videos: Any, count: int) -> list[Any]:
    """B sources for B texts; a single source will do for a single text."""
    if isinstance(videos, list | tuple) and len(videos) == count:
        return [_unwrap(v) for v in videos]
    if count == 1:
        return [_unwrap(videos)]
    received = len(videos) if isinstance(videos, list | tuple) else 1
    raise ValueError(f"expected {count} videos for {count} texts, received {received}; give one each")


def _points_of(texts: Sequence[str], coordinates: Any) -> Tensor | None:
    """Coordinates as (B,N,3), checked against the ``<coord>`` tokens of each text; None where no text has one."""
    wanted = [t.count(COORD_TOKEN) for t in texts]
    given = [None] * len(texts) if coordinates is None else list(coordinates)
    if not texts and any(g is not None for g in given):
        raise ValueError(f"coordinates were given without a text; write {COORD_TOKEN} where each stands")
    if texts and len(given) != len(texts):
        raise ValueError(f"expected coordinates for {len(texts)} texts, received {len(given)}")
    rows = [_rows_of_three(g) for g in given]
    for i, (row, count) in enumerate(zip(rows, wanted, strict=False)):
        if len(row) != count:
            raise ValueError(f"text {i} has {count} {COORD_TOKEN} tokens but {len(row)} coordinates; give one each")
    if not any(wanted):
        return None
    points = torch.zeros(len(rows), max(wanted), 3)
    for i, row in enumerate(rows):
        points[i, : len(row)] = row
    return points


def _rows_of_three(given: Any) -> Tensor:
    """Points as (N,3) float; ValueError for another shape or a value that is not finite."""
    if given is None:
        return torch.zeros(0, 3)
    points = torch.as_tensor(np.asarray(given, dtype=np.float32))
    points = points[None] if points.ndim == 1 else points
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"expected coordinates (3) or (N, 3) a text, received {tuple(points.shape)}")
    if not bool(points.isfinite().all()):
        raise ValueError(f"coordinates must be finite numbers in metres, received {points.tolist()}")
    return points


# ``from_pretrained`` of a processor finds its parts through the Auto classes.
AutoImageProcessor.register(VidLLMConfig, image_processor_classes={"pil": VidLLMVideoFrameProcessor}, exist_ok=True)
