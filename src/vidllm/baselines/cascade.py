"""The paper's baseline as one model: VGGT reconstructs the video, LLaVA-3D is asked with the resulting posed depth.

    video -> VGGT: encoder, global-frame attention, camera and depth heads -> relative geometry
          -> metres: a metric depth model, or what the user knows (camera height, a length, a factor)
          -> LLaVA-3D: CLIP features + position embedding -> voxels -> projector -> language model

It is Vid-LLM with two separate encoders and no exchange between them. The scene frame's origin
lies on the floor below the middle of the room (LLaVA-3D was trained on ScanNet's aligned frames), not at the camera.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel

from vidllm.baselines import llava_3d
from vidllm.baselines.depth_estimator import DepthEstimator
from vidllm.baselines.geometry import build_geometry, read_settings
from vidllm.geometry.cameras import decode_pose, invert_extrinsics, unproject
from vidllm.geometry.gravity import room_frame, up_from_cameras, up_from_points
from vidllm.model.camera_head import CameraHead
from vidllm.model.config_fields import check_loops, check_value
from vidllm.model.configuration import EncoderConfig, MetricDepthConfig, build_part
from vidllm.model.dpt_head import DPTHead, dense_features
from vidllm.model.encoder import DinoEncoder
from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.model.grounding import GroundingDecoder
from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration, VidLLMPreTrainedModel
from vidllm.model.metric_depth import MetricDepthModel
from vidllm.model.outputs import (
    AdapterOutput,
    Cameras,
    EncoderOutput,
    Features,
    Geometry,
    GlobalFrameOutput,
)
from vidllm.model.patches_3d import PositionEmbedding, Projector
from vidllm.model.priors import KnownCameras, KnownScale
from vidllm.model.scale_alignment import measured_anew, rescaled


class CascadeConfig(VidLLMConfig):
    """Configuration of :class:`CascadeForConditionalGeneration`.

    vision_config: CLIP's. vision_layer: the hidden state LLaVA-3D reads. metric_encoder: of a Vid-LLM's metric depth
    model, None without one; metric_side: its images' shorter side in pixels. metric_model: the configuration of a depth
    estimator of transformers in its place, and metric_input what pictures it wants (``baselines.depth_estimator``).
    camera_height_m: of videos about which nothing else is known. geometry_model: the settings of another network in
    VGGT's place (:mod:`vidllm.baselines.geometry`); of ``encoder`` the patch size alone counts then.
    """

    model_type = "vidllm_cascade"
    sub_configs = {"text_config": AutoConfig, "vision_config": CLIPVisionConfig}

    def __init__(
        self,
        vision_config: CLIPVisionConfig | dict[str, Any] | None = None,
        vision_layer: int = -2,
        metric_encoder: EncoderConfig | dict[str, Any] | None = None,
        metric_side: int = 518,
        metric_model: dict[str, Any] | None = None,
        metric_input: dict[str, Any] | None = None,
        camera_height_m: float | None = None,
        geometry_model: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value, hint in (
            ("vision_config", vision_config, CLIPVisionConfig | dict | None), ("vision_layer", vision_layer, int),
            ("metric_side", metric_side, int), ("metric_model", metric_model, dict | None),
            ("metric_input", metric_input, dict | None), ("camera_height_m", camera_height_m, float | None),
            ("geometry_model", geometry_model, dict | None),
        ):  # fmt: skip
            check_value(name, value, hint)
        for name, part in (("vision_config", vision_config), ("metric_model", metric_model)):
            check_loops(part if isinstance(part, dict) else {}, name)
        given = vision_config if isinstance(vision_config, CLIPVisionConfig) else CLIPVisionConfig(
            **{k: v for k, v in (vision_config or {}).items() if k != "model_type"}
        )  # fmt: skip
        self.vision_config = given
        self.vision_layer = vision_layer
        encoder = None if metric_encoder is None else build_part("metric_encoder", EncoderConfig, metric_encoder)
        self.metric_encoder: EncoderConfig | None = encoder
        self.metric_side = metric_side
        self.metric_model = metric_model
        self.metric_input = metric_input
        self.camera_height_m = camera_height_m
        if geometry_model is not None:
            read_settings(geometry_model)
        self.geometry_model = geometry_model
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; the inverse of ``from_dict``."""
        plain = super().to_dict()
        plain["vision_config"] = self.vision_config.to_dict()
        plain["metric_encoder"] = None if self.metric_encoder is None else asdict(self.metric_encoder)
        return plain


def _whole(size: Any) -> int:
    """A side in pixels; ValueError for CLIP's form with two sides."""
    if not isinstance(size, int):
        raise ValueError(f"expected CLIP on squares, received sides {size}")
    return size


class MetricEstimator(nn.Module):
    """A Vid-LLM's encoder and metric depth model, on frames of their own size."""

    def __init__(self, encoder: EncoderConfig, depth: MetricDepthConfig, side: int) -> None:
        super().__init__()
        self.side = side
        self.encoder = DinoEncoder(encoder)
        self.depth = MetricDepthModel(depth, encoder.hidden_size, encoder.patch_size)

    def forward(
        self, images: Float[Tensor, "B F 3 H W"], intrinsics: Float[Tensor, "B F 3 3"]
    ) -> Float[Tensor, "B F H W"]:
        """Depth in metres of images in [0, 1]."""
        size, patch = (images.shape[-2], images.shape[-1]), self.encoder.config.patch_size
        rows, columns = (max(patch, round(n * self.side / min(size) / patch) * patch) for n in size)
        resized = F.interpolate(images.flatten(0, 1).float(), (rows, columns), mode="bilinear", antialias=True)
        seen = self.encoder(resized.to(images.dtype).unflatten(0, images.shape[:2]))
        k = intrinsics.float()
        focal = (k[..., 0, 0] * columns / size[1] * k[..., 1, 1] * rows / size[0]).sqrt()
        found = self.depth(seen.intermediate_features, seen.grid, (rows, columns), focal).depth_m
        return F.interpolate(found.float(), size, mode="bilinear", align_corners=False)


class CascadeForConditionalGeneration(VidLLMForConditionalGeneration):
    """VGGT and LLaVA-3D with the methods of Vid-LLM."""

    config: CascadeConfig
    config_class: type[VidLLMConfig] = CascadeConfig

    def __init__(self, config: CascadeConfig) -> None:
        VidLLMPreTrainedModel.__init__(self, config)
        self.geometry_model = None if config.geometry_model is None else build_geometry(config.geometry_model)
        if self.geometry_model is None:
            self._build_vggt(config)
        self.metric_depth = None
        self.metric: MetricEstimator | DepthEstimator | None = None
        if config.metric_encoder is not None:
            self.metric = MetricEstimator(config.metric_encoder, config.metric_depth, config.metric_side)
        elif config.metric_model is not None:
            self.metric = DepthEstimator(config.metric_model, config.metric_input or {})
        self._build_language(config)
        self._built_on_meta = next(self.parameters()).is_meta
        self.post_init()

    def _build_language(self, config: CascadeConfig) -> None:
        seen = config.vision_config.hidden_size
        self.clip = CLIPVisionModel(config.vision_config)
        self.clip_side = _whole(config.vision_config.image_size)
        self.clip_patch = _whole(config.vision_config.patch_size)
        self.position_embedding = PositionEmbedding(seen)
        self.projector: nn.Module = Projector(seen, config.text_config.hidden_size)
        self.coordinate_embedding = PositionEmbedding(config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)

    def _build_vggt(self, config: CascadeConfig) -> None:
        width, patch = config.encoder.hidden_size, config.encoder.patch_size
        self.encoder = DinoEncoder(config.encoder)
        self.attention = GlobalFrameAttention(config.attention, width)
        self.camera_head = CameraHead(config.camera_head, 2 * width)
        self.depth_head = DPTHead(config.dense_head, 2 * width, 2, "exp", patch)
        points = config.dense_head.point_head
        self.point_head = DPTHead(config.dense_head, 2 * width, 4, "inv_log", patch) if points else None

    # ---- geometry: VGGT or another network, then metres --------------------------------------------------------

    def encode(self, pixel_values: Float[Tensor, "B F 3 H W"]) -> Features:
        """VGGT's encoder and CLIP on the same frames, without exchange.

        Another network takes the frames themselves, as the geometric stream; CLIP's tokens then stand for both.
        """
        size = (pixel_values.shape[-2], pixel_values.shape[-1])
        language = self.language_tokens(pixel_values)
        if self.geometry_model is not None:
            patch = self.config.encoder.patch_size
            seen = EncoderOutput(language, [], (size[0] // patch, size[1] // patch))
            return Features(seen, AdapterOutput(pixel_values, language, None), size)
        seen = self.encoder(pixel_values)
        return Features(seen, AdapterOutput(seen.tokens, language, None), size)

    def predict_cameras(self, features: Features) -> Cameras:
        """The network's cameras; up is the mean of the images' up directions.

        ``dense_features`` of another network than VGGT are its depth and confidence themselves.
        """
        if self.geometry_model is not None:
            found = self.geometry_model(features.streams.geometry)
            attended, poses = GlobalFrameOutput({}, features.streams.language[:, :, :0]), [found.pose_encoding]
            dense = [found.depth, found.confidence]
        else:
            layers = self.config.dense_head.tap_layers
            attended = self.attention(features.streams.geometry, features.encoder.grid, layers)
            poses = self.camera_head(attended.special[:, :, 0])
            dense = dense_features(self.config, features.encoder, attended)
        extrinsics, _ = decode_pose(poses[-1].float(), features.image_size)
        first = extrinsics[:, :1, :3, :3]
        rotations = extrinsics[..., :3, :3] @ first.transpose(-1, -2)
        up = up_from_cameras(torch.cat([rotations, extrinsics[..., 3:]], -1))
        return Cameras(attended, poses, up, dense)

    def predict_depth(
        self, cameras: Cameras, image_size: tuple[int, int], frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Depth (B,F,H,W) of VGGT's head or of the other network, and its confidence."""
        if self.geometry_model is None:
            return super().predict_depth(cameras, image_size, frames)
        depth, confidence = cameras.dense_features
        return (depth, confidence) if frames is None else (depth[:, frames], confidence[:, frames])

    def metric_geometry(self, features: Features, cameras: Cameras, known: KnownCameras | None = None) -> Geometry:
        """The geometry at the network's own scale, in the room's frame; only a metric network's is valid."""
        geometry = super().metric_geometry(features, cameras, known)
        if self.geometry_model is not None and self.geometry_model.metric and self.metric is None:
            scale = geometry.scale
            geometry = replace(geometry, scale=replace(scale, valid=torch.ones_like(scale.valid)))
        points = unproject(geometry.depth_m.float(), geometry.intrinsics.float(), geometry.extrinsics.float())
        scenes = points.flatten(1, 3)
        if known is not None and known.up is not None:
            ups = list(geometry.up.float())
        else:
            upright = up_from_cameras(geometry.extrinsics)
            ups = [up_from_points(p, u) for p, u in zip(scenes, upright, strict=True)]
        frames = [room_frame(p, u) for p, u in zip(scenes, ups, strict=True)]
        return replace(geometry, up=torch.stack(ups), scene_from_world=torch.stack(frames))

    def in_metres(
        self, geometry: Geometry, pixel_values: Float[Tensor, "B F 3 H W"], known: KnownScale | None = None
    ) -> Geometry:
        """The geometry in metres: by what is known, else by the metric depth model, else by the usual camera height.

        Left as it is where poses in metres gave its scale. ValueError where there is none of these.
        """
        if known is None and bool(geometry.scale.valid.all()):
            return geometry
        if known is None and self.metric is not None:
            return measured_anew(geometry, self.metric(pixel_values, geometry.intrinsics), self.config.scale)
        if known is None and self.config.camera_height_m is not None:
            known = KnownScale(camera_height_m=self.config.camera_height_m)
        if known is None:
            raise ValueError(
                "this model has no metric depth model and cannot know metres; give a scale, the camera's height or a "
                "known length (--scale, --camera-height, --known-length), or import it with a metric depth model"
            )
        return rescaled(geometry, known.scene_scale(geometry))

    def scene_frame(self, up: Float[Tensor, "B 3"], first: Geometry) -> Float[Tensor, "B 4 4"]:
        """The room's frame of the first window."""
        return first.scene_from_world

    # ---- language: LLaVA-3D -----------------------------------------------------------------------------------

    def language_tokens(self, pixel_values: Float[Tensor, "B F 3 H W"]) -> Float[Tensor, "B F P C"]:
        """CLIP's patch tokens of the frames."""
        return self.clip_features(llava_3d.clip_images(pixel_values, self.clip_side))

    def clip_features(self, pixels: Float[Tensor, "B F 3 s s"]) -> Float[Tensor, "B F P C"]:
        """Patch tokens of CLIP's ``vision_layer`` of normalised square crops, without the class token."""
        states = self.clip(pixels.flatten(0, 1), output_hidden_states=True).hidden_states
        return states[self.config.vision_layer][:, 1:].unflatten(0, pixels.shape[:2])

    def patch_positions(self, geometry: Geometry, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Positions of CLIP's patches (B,F,P,3) as in LLaVA-3D, in the room's frame, metres; all are valid."""
        with torch.no_grad():
            depth, k = llava_3d.clip_depth(geometry.depth_m, geometry.intrinsics, self.clip_side)
            k[..., :2, 2] -= llava_3d.PIXEL_OFFSET
            pose = geometry.scene_from_world.float()[:, None] @ invert_extrinsics(geometry.extrinsics.float())
            positions = llava_3d.patch_points(depth, k, pose, self.clip_patch).flatten(2, 3)
        return positions, positions.isfinite().all(-1)

    def encode_parts(self, tokenizer: Any, prompt: str) -> tuple[list[int], list[int]]:
        """A prompt in LLaVA-3D's training format."""
        return llava_3d.encode_parts(tokenizer, prompt)

    @property
    def grounding(self) -> GroundingDecoder:  # type: ignore[override]
        """ValueError: LLaVA-3D was released without a grounding decoder."""
        raise ValueError("the cascade has no grounding decoder (LLaVA-3D was released without one); ask or describe")
