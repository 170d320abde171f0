"""Vid-LLM: the network of Figure 2 from left to right.

    video -> encoder -> cross-task adapter -> | geometry: global-frame attention -> camera, depth, points, gravity
                                              |           metric depth model -> scale alignment -> metres
                                              | language: 3D patches (back-projection) -> projector -> causal LM
                                              |           <loc> -> grounding decoder -> boxes

Gradients of the language branch stop at the geometry (section 3.3, "unidirectional"): depth, cameras and scale are
detached before Eq 3. The adapter and the encoder have gradients from both sides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vidllm.geometry.cameras import decode_pose, relative_to_first
from vidllm.geometry.gravity import scene_from_world
from vidllm.geometry.precision import full_precision
from vidllm.model.camera_head import CameraHead, GravityHead
from vidllm.model.configuration import ModelConfig
from vidllm.model.cross_task_adapter import CrossTaskAdapter
from vidllm.model.dpt_head import DPTHead, dense_features, layer_widths
from vidllm.model.encoder import DinoEncoder
from vidllm.model.generation import SplicedInputs, run_language_model, splice
from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.model.grounding import GroundingDecoder
from vidllm.model.language_model import CausalLM
from vidllm.model.metric_depth import MetricDepthModel
from vidllm.model.outputs import (
    Cameras,
    Features,
    Geometry,
    GroundingOutput,
    PooledPatches,
    SceneOutput,
    VisualPrefix,
    check_geometry,
)
from vidllm.model.patches_3d import PositionEmbedding, Projector, back_project, voxel_pool
from vidllm.model.priors import KnownCameras, KnownScale
from vidllm.model.refinement import adjusted
from vidllm.model.scale_alignment import align_scale, measured_anew, rescaled, unit_scale
from vidllm.model.text import AnyTokenizer, encode_parts


class Network(nn.Module):
    """Video in; cameras, metric depth, text and boxes out. See the module docstring for the order of the parts.

    Plain PyTorch: ``huggingface.VidLLMForConditionalGeneration`` is the same network as a model of transformers.
    """

    speaker: Any = None  # a vision-language model that answers in its place (vidllm.baselines.vision_language)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config: Any = config
        self.name_or_path = ""
        self._build(config)

    def _build(self, config: ModelConfig) -> None:
        """The parts, in the order of the figure."""
        width, patch = config.encoder.hidden_size, config.encoder.patch_size
        self.encoder = DinoEncoder(config.encoder)
        self.adapter = CrossTaskAdapter(config.adapter, width)
        self.attention = GlobalFrameAttention(config.attention, width)
        self.camera_head = CameraHead(config.camera_head, 2 * width)
        self.gravity_head = GravityHead(2 * width)
        widths = layer_widths(config)
        self.depth_head = DPTHead(config.dense_head, widths, 2, "exp", patch)
        self.point_head = (
            DPTHead(config.dense_head, widths, 4, "inv_log", patch) if config.dense_head.point_head else None
        )
        self.metric_depth = (
            MetricDepthModel(config.metric_depth, width, patch) if config.metric_depth.enabled else None
        )
        self.position_embedding = PositionEmbedding(width)
        self.projector: nn.Module = Projector(width, config.text_config.hidden_size, norm=config.patches.token_norm)
        self.coordinate_embedding = PositionEmbedding(config.text_config.hidden_size)
        self.language_model: Any = self._language_model()
        self.grounding = GroundingDecoder(config.grounding, width, config.text_config.hidden_size)

    def _language_model(self) -> nn.Module:
        """Our own class: the configuration is of the form that it computes (:func:`is_llama_form`)."""
        return CausalLM(self.config.text_config)

    # ---- Figure 2 ---------------------------------------------------------------------------------------------

    def encode_scene(
        self,
        pixel_values: Float[Tensor, "B F 3 H W"],
        known: KnownScale | None = None,
        cameras: KnownCameras | None = None,
        refine: bool | None = None,
        features: Features | None = None,
    ) -> SceneOutput:
        """Figure 2 from left to right, up to the input of the language model: everything before the first question.

        Training uses the same steps (``training/joint.py``). ``known`` scale and ``cameras`` replace predictions;
        ``refine``: bundle adjustment, None: as configured; ``features``: the encoded video, if it has been encoded
        already.
        """
        # Shared encoder. Cross-task adapter: geometric and semantic stream (Eq 1), bridge tokens between them (Eq 2).
        features = self.encode(pixel_values) if features is None else features
        # Geometry: global-frame attention over all frames, then the camera head and the gravity head.
        predicted = self.predict_cameras(features)
        # Depth head; metric depth model on the encoder's features; one factor aligns the first to the second.
        geometry = self.metric_geometry(features, predicted, cameras)
        # For use, not for training: refined cameras and depth; the scale that a user knows.
        if self.config.refine if refine is None else refine:
            geometry = self.refined(features, adjusted(geometry, pixel_values, cameras), cameras)
        geometry = self.in_metres(geometry, pixel_values, known)
        if not self.training:
            check_geometry(geometry, self.name_or_path)
        # 3D patches: back-projection (Eq 3), position embedding (Eq 4), means over voxels; projector.
        prefix = self.build_visual_tokens(features, geometry)
        return SceneOutput(features, geometry, prefix)

    def encode(self, pixel_values: Float[Tensor, "B F 3 H W"]) -> Features:
        """Shared encoder and cross-task adapter (Eqs 1-2)."""
        encoded = self.encoder(pixel_values)
        return Features(encoded, self.adapter(encoded.tokens), (pixel_values.shape[-2], pixel_values.shape[-1]))

    def predict_cameras(self, features: Features) -> Cameras:
        """Global-frame attention and the camera and gravity heads."""
        streams, config = features.streams, self.config
        bridge = streams.frame_bridge() if config.adapter.geometry_rider else None
        attended = self.attention(streams.geometry, features.encoder.grid, config.dense_head.tap_layers, bridge)
        camera_tokens = attended.special[:, :, 0]
        read = dense_features(config, features.encoder, attended)
        return Cameras(attended, self.camera_head(camera_tokens), self.gravity_head(camera_tokens[:, 0]), read)

    def predict_depth(
        self, cameras: Cameras, image_size: tuple[int, int], frames: Int[Tensor, " f"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Depth head: relative depth (B,F,H,W) and its confidence; ``frames`` picks some of the frames."""
        depth, confidence = self.depth_head(self._dense_features(cameras, frames), image_size)
        return depth[..., 0], confidence

    def predict_points(
        self, cameras: Cameras, image_size: tuple[int, int], frames: Int[Tensor, " f"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Point head: points (B,F,H,W,3) in the first camera's frame at relative scale, and their confidence."""
        if self.point_head is None:
            raise ValueError("this model has no point head (config.dense_head.point_head is False)")
        return self.point_head(self._dense_features(cameras, frames), image_size)

    def _dense_features(self, cameras: Cameras, frames: Tensor | None) -> list[Tensor]:
        layers = cameras.dense_features
        return layers if frames is None else [tokens[:, frames] for tokens in layers]

    def predict_metric_depth(
        self, features: Features, intrinsics: Tensor, frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Metric Depth Model: depth in metres (B,F,H,W) and its log standard deviation."""
        if self.metric_depth is None:
            raise ValueError("this model has no metric depth model (config.metric_depth.enabled is False)")
        layers, kept = features.encoder.intermediate_features, intrinsics
        if frames is not None:
            layers, kept = [tokens[:, frames] for tokens in layers], intrinsics[:, frames]
        focal = (kept[..., 0, 0] * kept[..., 1, 1]).sqrt().detach()
        output = self.metric_depth(layers, features.encoder.grid, features.image_size, focal)
        return output.depth_m, output.log_std

    def metric_geometry(
        self, features: Features, cameras: Cameras, known: KnownCameras | None = None
    ) -> Geometry:
        """Relative geometry and metric depth into metres (docs/method.md, section 6)."""
        config = self.config.scale
        extrinsics, intrinsics = decode_pose(cameras.pose_encodings[-1].float(), features.image_size)
        depth, confidence = self.predict_depth(cameras, features.image_size)
        fitted, up = None, cameras.up
        if known is not None:
            fitted = known.fit(extrinsics, intrinsics, depth)
            intrinsics, up = fitted.intrinsics, up if known.up is None else known.up.to(up)
        metric, log_std, scale = None, None, unit_scale(depth, config.unit_m)
        if self.metric_depth is not None:
            metric, log_std = self.predict_metric_depth(features, intrinsics)
        sensed = None if known is None else known.depth
        if sensed is not None:
            every = replace(config, estimator="log_huber", frames="all")
            scale = align_scale(depth.float(), sensed.to(depth.device).float(), confidence.float(), every)
        if metric is not None and config.estimator != "none" and not bool(scale.valid.all()):
            scale = align_scale(depth.float(), metric.float(), confidence.float(), config)
        if fitted is not None:
            extrinsics, scale = fitted.place(scale)
        first = relative_to_first(extrinsics)  # the predicted first pose is only nearly the identity
        s = scale.scale.to(first.dtype)[:, None, None]
        metric_pose = torch.cat([first[..., :3, :3], first[..., :3, 3:] * s[..., None]], -1)
        aligned = metric is None or config.estimator != "none"
        depth_m = depth * s[..., None].to(depth.dtype) if aligned else metric
        assert depth_m is not None
        if sensed is not None and known is not None:
            depth_m, scale = known.filled(depth_m, scale)
            log_std = None if log_std is None else torch.where(sensed.to(depth_m) > 0, 0.0, log_std)
        level = scene_from_world(up.float())
        return Geometry(
            extrinsics=metric_pose, intrinsics=intrinsics, depth_m=depth_m, confidence=confidence,
            metric_depth_m=metric, scale=scale, up=up, scene_from_world=level, log_std=log_std,
            registration="learned" if known is None or known.extrinsics is None else "known",
        )  # fmt: skip

    def refined(self, features: Features, geometry: Geometry, known: KnownCameras | None) -> Geometry:
        """A refined geometry with its scale estimated again: metric depth is proportional to the focal length."""
        if geometry.metric_depth_m is None or self.config.scale.estimator == "none":
            return geometry
        if known is not None and known.gives_metres:
            return geometry
        metric, _ = self.predict_metric_depth(features, geometry.intrinsics)
        return measured_anew(geometry, metric, self.config.scale)

    def in_metres(
        self, geometry: Geometry, pixel_values: Float[Tensor, "B F 3 H W"], known: KnownScale | None = None
    ) -> Geometry:
        """The geometry at the known scale, or unchanged without one."""
        return geometry if known is None else rescaled(geometry, known.scene_scale(geometry))

    def scene_frame(self, up: Float[Tensor, "B 3"], first: Geometry) -> Float[Tensor, "B 4 4"]:
        """Scene from world of a video in windows: ``up`` over all of them, ``first`` the first window's geometry."""
        return scene_from_world(up.float())

    def build_visual_tokens(
        self, features: Features, geometry: Geometry, embed_positions: bool = True
    ) -> VisualPrefix:
        """3D patches (Eqs 3-4), voxel pooling, projector; preceded by bridge tokens. Geometry is detached here.

        Without ``embed_positions`` the tokens have no position embeddings (the 2D baseline).
        """
        streams, (positions, valid) = features.streams, self.patch_positions(geometry, features.encoder.grid)
        return self.pool_patches(streams.language, streams.bridge, positions, valid, embed_positions)

    def patch_positions(self, geometry: Geometry, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Eq 3: patch centres in the scene frame (B,F,P,3), metres, without gradient, and which of them are valid."""
        with torch.no_grad(), full_precision():
            world, valid = back_project(
                geometry.depth_m.float(), geometry.intrinsics.float(), geometry.extrinsics.float(), grid,
                self.config.encoder.patch_size,
            )
            level = geometry.scene_from_world.float()
            scene = torch.einsum("bij,bfpj->bfpi", level[:, :3, :3], world) + level[:, None, None, :3, 3]
        return scene, valid

    def pool_patches(
        self,
        tokens: Float[Tensor, "B F P C"],
        bridge: Tensor | None,
        positions: Float[Tensor, "B F P 3"],
        valid: Bool[Tensor, "B F P"],
        embed_positions: bool = True,
    ) -> VisualPrefix:
        """Eq 4: semantic tokens with the embedding of their positions; means over voxels; projected."""
        if embed_positions and self.config.patches.positions:
            tokens = tokens + self.position_embedding(positions.to(tokens.dtype))
        pooled = voxel_pool(
            tokens.flatten(1, 2), positions.flatten(1, 2), valid.flatten(1, 2),
            self.config.patches.voxel_size_m, self.config.patches.max_patches,
        )
        return self.project_tokens(pooled, bridge)

    def project_tokens(self, pooled: PooledPatches, bridge: Tensor | None) -> VisualPrefix:
        """Pooled patches in the language model's width; bridge tokens, if any, in front."""
        prefix, mask = self.projector(pooled.features), pooled.mask
        if self.config.adapter.language_rider and bridge is not None:
            front = self.projector(bridge.flatten(1, -2))
            prefix, mask = torch.cat([front, prefix], 1), torch.cat([mask.new_ones(front.shape[:2]), mask], 1)
        return VisualPrefix(prefix, mask, pooled.features, pooled.positions, pooled.mask, pooled.inverse)

    # ---- language -----------------------------------------------------------------------------------------------

    def encode_parts(self, tokenizer: AnyTokenizer, prompt: str) -> tuple[list[int], list[int]]:
        """A prompt as (prefix ids, suffix ids), in the words this model was trained on."""
        return encode_parts(tokenizer, prompt)

    def embed_text(
        self, input_ids: Int[Tensor, "B L"], coordinates: Float[Tensor, "B N 3"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """Token embeddings; the n-th ``<coord>`` of a row becomes the embedding of its n-th scene point."""
        embeddings = self.get_input_embeddings()(input_ids)
        is_point = input_ids == self.config.coord_token_id
        if coordinates is None or not bool(is_point.any()):
            return embeddings
        most = int(is_point.sum(1).max())
        if most > coordinates.shape[1]:
            raise ValueError(f"{most} <coord> tokens but {coordinates.shape[1]} coordinates a row; give one each")
        points = self.coordinate_embedding(coordinates.to(embeddings.dtype))
        order = (is_point.long().cumsum(1) - 1).clamp(min=0)
        chosen = points.gather(1, order[..., None].expand(-1, -1, points.shape[-1]).clamp(max=points.shape[1] - 1))
        return torch.where(is_point[..., None], chosen, embeddings)

    def ground(self, prefix: VisualPrefix, loc_hidden: Float[Tensor, "B E D"]) -> GroundingOutput:
        """Grounding decoder: boxes in the scene frame for each ``<loc>`` hidden state."""
        return self.grounding(prefix.patches, prefix.patch_positions, prefix.patch_mask, loc_hidden)

    def prepare(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        coordinates: Tensor | None = None,
        labels: Tensor | None = None,
        prefix: VisualPrefix | None = None,
    ) -> SplicedInputs:
        """Text and scene as one left-padded sequence of embeddings: ``<video>`` becomes the visual prefix."""
        rows = int(self.token_table().shape[0])
        ids = self.config.video_token_id, self.config.loc_token_id, self.config.coord_token_id
        if max(ids) >= rows:
            raise ValueError(f"the token table has {rows} rows but <video>, <loc>, <coord> are {ids}; "
                             f"call resize_token_embeddings({max(ids) + 1})")  # fmt: skip
        if prefix is None and pixel_values is not None:
            prefix = self.encode_scene(pixel_values).prefix
        embeddings = self.embed_text(input_ids, coordinates)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        visual = None if prefix is None else (prefix.tokens.to(embeddings.dtype), prefix.mask)
        return splice(input_ids, embeddings, mask, labels, visual, self.config.video_token_id)

    def token_table(self) -> Tensor:
        """The language model's token embeddings (vocabulary, D)."""
        table = self.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        return table

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        coordinates: Tensor | None = None,
    ) -> Any:
        """Next-token logits over the spliced sequence (``.logits``); inputs as for :meth:`prepare`."""
        whole = self.prepare(input_ids, attention_mask, pixel_values, coordinates)
        return run_language_model(
            self.language_model, inputs_embeds=whole.embeddings, attention_mask=whole.attention_mask,
            position_ids=whole.position_ids,
        )  # fmt: skip

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token table."""
        table: nn.Module = self.language_model.get_input_embeddings()
        return table
