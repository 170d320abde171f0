"""Seconds and bytes of each part of a model with random weights; what ``full_size.py`` runs in a process of its own."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from own_process import memory
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPVisionConfig, DynamicCache, LlavaConfig, LlavaForConditionalGeneration
from vggt_form import attend_as_vggt

from vidllm.io.video import load_frames
from vidllm.model.generation import run_language_model
from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration
from vidllm.model.outputs import Geometry
from vidllm.model.precision import place
from vidllm.model.presets import preset
from vidllm.model.scale_alignment import align_scale
from vidllm.profiling import QUESTION_TOKENS, extent_of

T = TypeVar("T")
TOKENS = 32  # generated for the rate of decoding
KERNELS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")
DEPTH_M = (1.0, 5.0)  # of the noise that the patches are lifted by, so that a scene fills its voxels


@dataclass(frozen=True)
class Settings:
    """What measurements are made with, one a number of frames; ``video`` is read (None: noise, and nothing is)."""

    preset: str
    frames: tuple[int, ...]
    video: str | None
    device: str = "cpu"
    dtype: str = "float32"
    language_dtype: str | None = None
    offload: str | None = None
    attention: str | None = None
    size: tuple[int, int] | None = None
    compile: bool = False
    static_cache: bool = False
    llava: bool = False
    vggt: bool = False
    processor_time: bool = False
    repeats: int = 3


def measure(s: Settings) -> Iterator[dict[str, Any]]:
    """Seconds by part, rates, tokens and peak bytes of each number of frames, by one model; "failed": why, and the
    last one, where the device's memory was too small.
    """
    device, dtype = torch.device(s.device), getattr(torch, s.dtype)
    model = random_model(benchmark_config(s.preset), device, dtype, s.language_dtype, s.offload)
    if s.compile:
        compile_vision(model)
    now = time.process_time if s.processor_time else time.perf_counter
    rate = rates(device, dtype, now)
    for frames in s.frames:
        clock = Clock(device, s.repeats, now)
        try:
            measure_clip(model, s, frames, clock)
        except torch.OutOfMemoryError as error:
            yield {"frames": frames, "failed": " ".join(str(error).split())}
            return
        yield clock.found | rate


def measure_clip(model: VidLLMForConditionalGeneration, s: Settings, frames: int, clock: Clock) -> None:
    """All of one number of frames."""
    weights = forget_peak(clock.device)
    kernel = nullcontext() if s.attention is None else sdpa_kernel(getattr(SDPBackend, s.attention))
    with torch.inference_mode(), kernel:
        prefix = time_scene(model, s, frames, clock)
        clock.found["scene bytes"] = peak(clock.device) - weights
        time_language(model.language_model, prefix, clock)
    clock.found["peak bytes"] = peak(clock.device)
    prefix = prefix.clone()  # as made without inference mode, in which graphs are not captured
    if s.static_cache:
        static = generation(model.language_model, inputs_embeds=prefix, cache_implementation="static")
        clock.each("a token, static cache", static)
    if s.vggt:
        with torch.inference_mode():
            time_vggt_form(model, s, frames, clock)
    if s.llava:
        time_llava(model.language_model.config, prefix, clock)


class Clock:
    """Median seconds of calls, after one that does not count; the device's work is waited for."""

    def __init__(self, device: torch.device, repeats: int, now: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.repeats, self.now, self.found = device, repeats, now, dict[str, float]()

    def __call__(self, name: str, call: Callable[[], T]) -> T:
        """Time a call under a name; its last result."""
        taken, result = [], None
        for _ in range(self.repeats + 1):
            del result  # the last one's memory is not this one's
            wait(self.device)
            begin = self.now()
            result = call()
            wait(self.device)
            taken.append(self.now() - begin)
        self.found[name] = median(taken[1:])
        return result

    def each(self, name: str, call: Callable[[Callable[[], None]], None]) -> None:
        """Time the steps of a call, which calls what it is given after each: seconds a step, the first left out."""
        taken = []
        for _ in range(self.repeats + 1):
            stamps = list[float]()

            def step(stamps: list[float] = stamps) -> None:
                wait(self.device)
                stamps.append(self.now())

            call(step)
            taken.append((stamps[-1] - stamps[0]) / (len(stamps) - 1))
        self.found[name] = median(taken[1:])


def wait(device: torch.device) -> None:
    """Until the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- models -----------------------------------------------------------------------------------------------------


def benchmark_config(name: str) -> VidLLMConfig:
    """A preset whose token table has a row for each of our tokens."""
    config = preset(name)
    ids = config.video_token_id, config.loc_token_id, config.coord_token_id
    config.text_config.vocab_size = max(config.text_config.vocab_size, max(ids) + 1)
    return config


def random_model(
    config: VidLLMConfig, device: torch.device, dtype: torch.dtype, language_dtype: str | None, offload: str | None
) -> VidLLMForConditionalGeneration:
    """Random weights, made where they stay (in the host's memory where layers are left there)."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cpu" if offload else device):
            model = VidLLMForConditionalGeneration(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)
    place(model, device, language_dtype, offload)
    return model


def compile_vision(model: VidLLMForConditionalGeneration) -> None:
    """torch.compile of everything repeated: encoder layers, attention blocks, dense decoders."""
    repeated = [*model.encoder.backbone.encoder.layer, *model.attention.frame_blocks, *model.attention.global_blocks]
    dense = [model.depth_head.decoder] + ([] if model.metric_depth is None else [model.metric_depth.decoder])
    for module in (*repeated, *dense):
        module.compile()


# ---- what is timed ----------------------------------------------------------------------------------------------


def time_scene(model: VidLLMForConditionalGeneration, s: Settings, frames: int, clock: Clock) -> Tensor:
    """From the file to the visual prefix (1, T, D)."""
    config = model.config
    images = pictures(model, s, frames, clock)
    size = (int(images.shape[-2]), int(images.shape[-1]))
    clock.found |= {"frames": images.shape[1], "height": size[0], "width": size[1]}
    features = clock("encoder and adapter", lambda: model.encode(images))
    cameras = clock("global-frame attention", lambda: model.predict_cameras(features))
    depth, confidence = clock("depth head", lambda: model.predict_depth(cameras, size))
    geometry = model.metric_geometry(features, cameras)
    if model.metric_depth is not None:
        metric, _ = clock("metric depth", lambda: model.predict_metric_depth(features, geometry.intrinsics))
        votes = depth.float(), metric.float(), confidence.float()
        clock("scale", lambda: align_scale(*votes, config.scale))
    del cameras
    prefix = clock("lift", lambda: model.build_visual_tokens(features, spread(geometry)))
    return prefix.tokens


def pictures(model: VidLLMForConditionalGeneration, s: Settings, frames: int, clock: Clock) -> Tensor:
    """(1,F,3,H,W) as the model takes them, where its weights are that see."""
    config, parameter = model.config, next(model.encoder.parameters())
    if s.video is None:
        extent = extent_of(config, frames)
        images = torch.rand(frames, 3, *(s.size or (extent.height, extent.width)))
    else:
        side, video = config.shorter_side if s.size is None else min(s.size), s.video
        images = clock("decode", lambda: load_frames(video, frames, shorter_side=side).images)
        if s.size is not None:
            images = images[..., : s.size[0], : s.size[1]]
    return images[None].to(parameter.device, parameter.dtype)


def spread(geometry: Geometry) -> Geometry:
    """The geometry with noise for its depth: random weights see a wall, a room fills more voxels than the cap."""
    low, high = DEPTH_M
    depth = torch.rand(geometry.depth_m.shape, device=geometry.depth_m.device) * (high - low) + low
    return replace(geometry, depth_m=depth)


def time_language(lm: Any, prefix: Tensor, clock: Clock) -> None:
    """Prefix into the cache, a question behind it to the first token, then token by token."""
    seen = prefix.to(lm.get_input_embeddings().weight.dtype)
    question = torch.zeros(1, QUESTION_TOKENS, dtype=torch.long, device=seen.device)

    def read() -> DynamicCache:
        cache = DynamicCache(config=lm.config)
        run_language_model(lm, inputs_embeds=seen, cache=cache, use_cache=True, logits_to_keep=1)
        return cache

    cache = clock("scene into the language model", read)

    def ask() -> int:
        if cache.get_seq_length() > seen.shape[1]:
            cache.crop(seen.shape[1] - cache.get_seq_length())
        out = run_language_model(lm, input_ids=question, cache=cache, use_cache=True, logits_to_keep=1)
        return int(out.logits[0, -1].argmax())

    clock("question to first token", ask)

    def speak(step: Callable[[], None]) -> None:
        token = ask()
        step()
        for _ in range(TOKENS):
            ids = torch.full((1, 1), token, device=seen.device)
            out = run_language_model(lm, input_ids=ids, cache=cache, use_cache=True)
            token = int(out.logits[0, -1].argmax())
            step()

    clock.found["visual tokens"] = seen.shape[1]
    clock.each("a token", speak)


def time_vggt_form(model: VidLLMForConditionalGeneration, s: Settings, frames: int, clock: Clock) -> None:
    """Global-frame attention without heads beside VGGT's way of writing it, and each attention kernel alone."""
    features = model.encode(pictures(model, replace(s, video=None), frames, clock))
    attention, tokens, grid = model.attention, features.streams.geometry, features.encoder.grid
    taps = model.config.dense_head.tap_layers
    clock("attention alone", lambda: attention(tokens, grid, taps))
    clock("the same in VGGT's form", lambda: attend_as_vggt(attention, tokens, grid))
    sequence = tokens.shape[1] * (tokens.shape[2] + 1 + attention.config.num_register_tokens)
    heads = attention.config.num_heads
    q, k, v = torch.randn(3, 1, heads, sequence, tokens.shape[-1] // heads, device=tokens.device, dtype=tokens.dtype)
    for name in KERNELS:
        with suppress(RuntimeError), sdpa_kernel(getattr(SDPBackend, name)):  # a kernel that this device does not have
            clock(f"global attention once, {name}", lambda: scaled_dot_product_attention(q, k, v))


def generation(lm: Any, **given: Any) -> Callable[[Callable[[], None]], None]:
    """Transformers' own generation of TOKENS + 1 tokens; on CUDA a static cache makes it compile and capture graphs."""
    count = TOKENS + 1
    options = given | {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}

    def generate(step: Callable[[], None]) -> None:
        def stamp(_: Tensor, scores: Tensor) -> Tensor:  # called once a token, with its logits
            step()
            return scores

        lm.generate(**options, logits_processor=[stamp])

    return generate


def time_llava(text: Any, prefix: Tensor, clock: Clock) -> None:
    """A plain LLaVA with the same language model: pictures enough for as many visual tokens, then generation."""
    large = text.hidden_size >= 1024
    form = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = CLIPVisionConfig(image_size=336, patch_size=14, projection_dim=64, **(form if large else small))
    marker, pictures = text.vocab_size - 1, max(1, round(prefix.shape[1] / 576))
    torch.set_default_dtype(prefix.dtype)
    with torch.device(prefix.device):
        config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=marker)
        model = LlavaForConditionalGeneration(config).eval()
        torch.set_default_dtype(torch.float32)
        ids = torch.zeros(1, QUESTION_TOKENS + 576 * pictures, dtype=torch.long)
        ids[:, : 576 * pictures] = marker
        given = {"input_ids": ids, "pixel_values": torch.rand(pictures, 3, 336, 336, dtype=prefix.dtype)}
    given["attention_mask"] = torch.ones_like(ids)
    with torch.inference_mode():
        clock("plain LLaVA: first token", lambda: model.generate(**given, max_new_tokens=1, pad_token_id=0))
        clock.each("plain LLaVA: a token", generation(model, **given))


# ---- the device -------------------------------------------------------------------------------------------------


def rates(device: torch.device, dtype: torch.dtype, now: Callable[[], float]) -> dict[str, float]:
    """Operations a second of a large matrix product, bytes a second of a large copy (read and written)."""
    large = device.type == "cuda"
    side, count = (8192, 2**29) if large else (1024, 2**25)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    buffer, target = (torch.rand(count, device=device) for _ in range(2))
    clock = Clock(device, 9 if large else 3, now)
    clock("product", lambda: a @ b)
    clock("copy", lambda: target.copy_(buffer))
    return {"flops": 2 * side**3 / clock.found["product"], "bandwidth": 8 * count / clock.found["copy"]}


def forget_peak(device: torch.device) -> float:
    """Let the peak memory count from here; the bytes that are held now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    with suppress(OSError):  # not Linux: the peak of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    return peak(device)


def peak(device: torch.device) -> float:
    """Bytes: allocated on the GPU at most, or held by this process at most."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(memory())


