"""Vid-LLM, whole: the data walk through Figure 2 from left to right.

    video -> encoder -> cross-task adapter -> | geometry: global-frame attention -> camera, depth, points, gravity
                                              |           metric depth model -> scale alignment -> metres
                                              | language: 3D patches (back-projection) -> projector -> causal LM
                                              |           <loc> -> grounding decoder -> boxes

Gradients of the language branch stop at the geometry (section 3.3, "unidirectional"): depth, cameras and scale are
detached before Eq 3. The adapter and the encoder get gradients from both sides.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vidllm.geometry.cameras import decode_pose, relative_to_first
from vidllm.geometry.gravity import scene_from_world
from vidllm.geometry.precision import full_precision
from vidllm.model.camera_head import CameraHead
from vidllm.model.compact_weights import ReadsCompactWeights
from vidllm.model.configuration import VidLLMConfig
from vidllm.model.cross_task_adapter import AdapterOutput, CrossTaskAdapter
from vidllm.model.dense_head import DenseHead, dense_taps, tap_widths
from vidllm.model.encoder import DinoEncoder, EncoderOutput
from vidllm.model.generation import VidLLMOutput, holds_tokens, one_cache, run_language_model
from vidllm.model.global_frame_attention import GlobalFrameAttention, GlobalFrameOutput
from vidllm.model.gravity_head import GravityHead
from vidllm.model.grounding import GroundingDecoder, GroundingOutput
from vidllm.model.known_cameras import KnownCameras
from vidllm.model.known_scale import KnownScale, known_scale
from vidllm.model.metric_depth import MetricDepthModel
from vidllm.model.patches_3d import PooledPatches, PositionEmbedding, Projector, back_project, voxel_pool
from vidllm.model.refinement import refine
from vidllm.model.scale_alignment import SceneScale, align_scale, rescaled, unit_scale
from vidllm.model.splice import SplicedInputs, splice
from vidllm.model.text import encode_parts

ALIGNMENT = 64  # bytes; where torch's own allocations begin


@dataclass
class Features:
    """The shared encoder's tokens and the adapter's two flows; what is ``known`` of the cameras goes with them."""

    seen: EncoderOutput
    flows: AdapterOutput
    image_size: tuple[int, int]
    known: KnownCameras | None = None


@dataclass
class Cameras:
    """Cameras at relative scale: ``pose_encodings`` one (B,F,9) a refinement; ``up`` (B,3) in the first camera.

    ``dense_taps``: the four layers (B,F,P,D) that the dense heads read.
    """

    attended: GlobalFrameOutput
    pose_encodings: list[Tensor]
    up: Tensor
    dense_taps: list[Tensor]


@dataclass
class Geometry:
    """The reconstruction in metres. World = first camera's frame; scene = level frame (docs/method.md, section 0).

    extrinsics (B,F,3,4) camera-from-world; intrinsics (B,F,3,3) pixels; depth_m, confidence, metric_depth_m
    (B,F,H,W); scene_from_world (B,4,4).
    """

    extrinsics: Tensor
    intrinsics: Tensor
    depth_m: Tensor
    confidence: Tensor
    metric_depth_m: Tensor | None
    scale: SceneScale
    up: Tensor
    scene_from_world: Tensor


@dataclass
class VisualPrefix:
    """What the language model reads of a scene: bridge tokens, then pooled 3D patches.

    tokens (B,T,D) and mask (B,T); patches (B,N,C) pooled features before the projector with their scene positions
    (B,N,3) in metres and mask (B,N), which the grounding decoder reads; patch_index (B,F*P) tells which of the N each
    image patch was pooled into (-1: none).
    """

    tokens: Tensor
    mask: Tensor
    patches: Tensor
    patch_positions: Tensor
    patch_mask: Tensor
    patch_index: Tensor


class VidLLMPreTrainedModel(ReadsCompactWeights, PreTrainedModel):  # type: ignore[misc]
    """Shared plumbing: configuration class, weight initialisation, gradient checkpointing."""

    config: VidLLMConfig
    config_class = VidLLMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["Block", "LlamaDecoderLayer"]

    _built_on_meta = False  # loading builds a model of empty weights

    def _init_weights(self, module: nn.Module) -> None:
        """Our modules initialise themselves in their constructors; the LM and the encoder by their own classes."""

    def initialize_weights(self) -> None:
        """Called after construction, and after loading: there, what the checkpoint lacks is constructed anew."""
        super().initialize_weights()
        if self._built_on_meta:
            _fill_from_twin(self)
            _align(self)


class VidLLMForConditionalGeneration(VidLLMPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Video in; cameras, metric depth, text and boxes out. See the module docstring for the order of the parts."""

    def __init__(self, config: VidLLMConfig) -> None:
        super().__init__(config)
        width, patch = config.encoder.hidden_size, config.encoder.patch_size
        self.encoder = DinoEncoder(config.encoder)
        self.adapter = CrossTaskAdapter(config.adapter, width)
        self.attention = GlobalFrameAttention(config.attention, width)
        self.camera_head = CameraHead(config.camera_head, 2 * width)
        self.gravity_head = GravityHead(2 * width)
        widths = tap_widths(config)
        self.depth_head = DenseHead(config.dense_head, widths, 2, "exp", patch)
        self.point_head = (
            DenseHead(config.dense_head, widths, 4, "inv_log", patch) if config.dense_head.point_head else None
        )
        self.metric_depth = (
            MetricDepthModel(config.metric_depth, width, patch) if config.metric_depth.enabled else None
        )
        self.position_embedding = PositionEmbedding(width)
        self.projector = Projector(width, config.text_config.hidden_size, norm=config.patches.token_norm)
        self.coordinate_embedding = PositionEmbedding(config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.grounding = GroundingDecoder(config.grounding, width, config.text_config.hidden_size)
        self._built_on_meta = self.grounding.none.is_meta
        self.post_init()

    # ---- the figure, box by box -------------------------------------------------------------------------------

    def see(self, pixel_values: Float[Tensor, "B F 3 H W"]) -> Features:
        """Shared encoder and Cross-Task Adapter (Eqs 1-2)."""
        seen = self.encoder(pixel_values)
        return Features(seen, self.adapter(seen.tokens), (pixel_values.shape[-2], pixel_values.shape[-1]))

    def locate(self, features: Features) -> Cameras:
        """Global-frame attention and the camera and gravity heads."""
        taps = self.config.dense_head.tap_layers
        flows, seen = features.flows, features.seen
        rider = flows.riders(seen.tokens.shape[1]) if self.config.adapter.geometry_rider else None
        attended = self.attention(flows.geometry, seen.grid, taps, rider)
        camera_tokens = attended.special[:, :, 0]
        read = dense_taps(self.config, seen, attended)
        return Cameras(attended, self.camera_head(camera_tokens), self.gravity_head(camera_tokens[:, 0]), read)

    def relative_depth(
        self, cameras: Cameras, image_size: tuple[int, int], frames: Int[Tensor, " f"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Dense head: relative depth (B,F,H,W) and its confidence; ``frames`` picks some of the frames."""
        depth, confidence = self.depth_head(self._taps(cameras, frames), image_size)
        return depth[..., 0], confidence

    def relative_points(
        self, cameras: Cameras, image_size: tuple[int, int], frames: Int[Tensor, " f"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Point head: points (B,F,H,W,3) in the first camera's frame at relative scale, and their confidence."""
        if self.point_head is None:
            raise ValueError("this model has no point head (config.dense_head.point_head is False)")
        return self.point_head(self._taps(cameras, frames), image_size)

    def _taps(self, cameras: Cameras, frames: Tensor | None) -> list[Tensor]:
        return cameras.dense_taps if frames is None else [t[:, frames] for t in cameras.dense_taps]

    def measure(self, features: Features, intrinsics: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Metric Depth Model: depth in metres (B,F,H,W) and its log standard deviation."""
        if self.metric_depth is None:
            raise ValueError("this model has no metric depth model (config.metric_depth.enabled is False)")
        taps = features.seen.taps if frames is None else [t[:, frames] for t in features.seen.taps]
        kept = intrinsics if frames is None else intrinsics[:, frames]
        focal = (kept[..., 0, 0] * kept[..., 1, 1]).sqrt().detach()
        output = self.metric_depth(taps, features.seen.grid, features.image_size, focal)
        return output.depth_m, output.log_std

    def reconstruct_features(self, features: Features) -> Geometry:
        """Cameras, depth and scale of a scene: the whole geometric branch, in metres."""
        return self.assemble(features, self.locate(features))

    def assemble(self, features: Features, cameras: Cameras) -> Geometry:
        """Relative geometry and metric depth into metres (docs/method.md, section 6)."""
        extrinsics, intrinsics = decode_pose(cameras.pose_encodings[-1].float(), features.image_size)
        depth, confidence = self.relative_depth(cameras, features.image_size)
        fitted, up = None, cameras.up
        if features.known is not None:
            fitted = features.known.fit(extrinsics, intrinsics, depth)
            intrinsics, up = fitted.intrinsics, up if features.known.up is None else features.known.up.to(up)
        metric, scale = None, unit_scale(depth, self.config.scale.unit_m)
        if self.metric_depth is not None:
            metric, _ = self.measure(features, intrinsics)
        if metric is not None and self.config.scale.estimator != "none":
            scale = align_scale(depth.float(), metric.float(), confidence.float(), self.config.scale)
        if fitted is not None:
            extrinsics, scale = fitted.place(scale)
        geometry = _in_metres(extrinsics, intrinsics, depth, confidence, metric, scale, up)
        if metric is not None and self.config.scale.estimator == "none":
            return replace(geometry, depth_m=metric)
        return geometry

    def lift(self, features: Features, geometry: Geometry) -> VisualPrefix:
        """3D patches (Eqs 3-4), voxel pooling, projector; bridge tokens ride in front. Geometry is detached here."""
        return self.lift_tokens(features.flows.language, features.flows.bridge, features.seen.grid, geometry)

    def lift_tokens(
        self, tokens: Float[Tensor, "B F P C"], bridge: Tensor | None, grid: tuple[int, int], geometry: Geometry
    ) -> VisualPrefix:
        """:meth:`lift` of any semantic tokens; without a ``bridge`` nothing rides in front."""
        return self.pool_patches(tokens, bridge, *self.patch_positions(geometry, grid))

    def pool_patches(
        self, tokens: Float[Tensor, "B F P C"], bridge: Tensor | None, positions: Tensor, valid: Tensor
    ) -> VisualPrefix:
        """The visual prefix of tokens that lie at ``positions`` (B,F,P,3), metres, where ``valid`` (B,F,P)."""
        if self.config.patches.positions:
            tokens = tokens + self.position_embedding(positions.to(tokens.dtype))
        pooled = voxel_pool(
            tokens.flatten(1, 2), positions.flatten(1, 2), valid.flatten(1, 2),
            self.config.patches.voxel_size_m, self.config.patches.max_patches,
        )
        return self.present(pooled, bridge)

    def present(self, pooled: PooledPatches, bridge: Tensor | None) -> VisualPrefix:
        """Pooled patches as the language model reads them, projected; bridge tokens ride in front."""
        prefix, mask = self.projector(pooled.features), pooled.mask
        if self.config.adapter.language_rider and bridge is not None:
            rider = self.projector(bridge.flatten(1, -2))
            prefix = torch.cat([rider, prefix], 1)
            mask = torch.cat([mask.new_ones(rider.shape[:2]), mask], 1)
        return VisualPrefix(prefix, mask, pooled.features, pooled.positions, pooled.mask, pooled.inverse)

    def patch_positions(self, geometry: Geometry, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Patch centres in the scene frame (B,F,P,3), metres, without gradient, and which of them are valid."""
        with torch.no_grad(), full_precision():
            world, valid = back_project(
                geometry.depth_m.float(), geometry.intrinsics.float(), geometry.extrinsics.float(), grid,
                self.config.encoder.patch_size,
            )
            level = geometry.scene_from_world.float()
            scene = torch.einsum("bij,bfpj->bfpi", level[:, :3, :3], world) + level[:, None, None, :3, 3]
        return scene, valid

    def encode_scene(
        self, pixel_values: Float[Tensor, "B F 3 H W"], known: KnownScale | None = None,
        cameras: KnownCameras | None = None, refined: bool | None = None,
    ) -> tuple[Geometry, VisualPrefix]:  # fmt: skip
        """Everything before the first question; a ``known`` scale and ``cameras`` go before what is measured."""
        features = replace(self.see(pixel_values), known=cameras)
        geometry = self.reconstruct(features, pixel_values, known, refined)
        return geometry, self.lift(features, geometry)

    def reconstruct(
        self, features: Features, pixel_values: Float[Tensor, "B F 3 H W"], known: KnownScale | None = None,
        refined: bool | None = None,
    ) -> Geometry:  # fmt: skip
        """The geometry for use, not for training: ``refined`` (None: as configured), and at the scale that is known."""
        geometry = self.reconstruct_features(features)
        if self.config.refine if refined is None else refined:
            geometry = refine(self, features, geometry, pixel_values)
        return self.in_metres(geometry, pixel_values, known)

    def in_metres(
        self, geometry: Geometry, pixel_values: Float[Tensor, "B F 3 H W"], known: KnownScale | None = None
    ) -> Geometry:
        """The geometry at the scale that is known, else as it is: it was measured already."""
        return geometry if known is None else rescaled(geometry, known_scale(known, geometry))

    def scene_frame(self, up: Float[Tensor, "B 3"], first: Geometry) -> Float[Tensor, "B 4 4"]:
        """Scene from world of a video in windows: ``up`` over all of them, ``first`` the first window's geometry."""
        return scene_from_world(up.float())

    # ---- language -----------------------------------------------------------------------------------------------

    def encode_parts(self, tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[list[int], list[int]]:
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
        self._check_table()
        if prefix is None and pixel_values is not None:
            prefix = self.encode_scene(pixel_values)[1]
        embeddings = self.embed_text(input_ids, coordinates)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        visual = None if prefix is None else (prefix.tokens.to(embeddings.dtype), prefix.mask)
        return splice(input_ids, embeddings, mask, labels, visual, self.config.video_token_id)

    def token_table(self) -> Tensor:
        """The language model's token embeddings (vocabulary, D)."""
        table = self.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        return table

    def _check_table(self) -> None:
        """ValueError when the token table has no row for one of our three tokens."""
        rows = int(self.token_table().shape[0])
        ids = self.config.video_token_id, self.config.loc_token_id, self.config.coord_token_id
        if max(ids) >= rows:
            raise ValueError(
                f"the token table has {rows} rows but <video>, <loc>, <coord> are {ids}; "
                f"call resize_token_embeddings({max(ids) + 1})"
            )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        coordinates: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> VidLLMOutput | tuple[Any, ...]:
        """Next-token logits over the spliced sequence, as any causal LM.

        input_ids (B,L) with one ``<video>`` a row, pixel_values (B,F,3,H,W) in [0,1], coordinates (B,N,3) scene
        points in metres for ``<coord>`` tokens, labels (B,L) with -100 where not scored. ``cache`` and
        ``past_key_values`` are one argument (transformers renamed it in 5.24). Other keywords go to the language model;
        TypeError for one that it does not know, ValueError for a scene that would not be read.
        """
        cache, is_loc = one_cache(cache, past_key_values), None
        states, as_tuple = bool(kwargs.pop("output_hidden_states", False)), kwargs.pop("return_dict", None) is False
        if inputs_embeds is None and input_ids is not None and not holds_tokens(cache):
            whole = self.prepare(input_ids, attention_mask, pixel_values, coordinates, labels)
            inputs_embeds, attention_mask, labels = whole.embeddings, whole.attention_mask, whole.labels
            position_ids, is_loc = whole.position_ids, whole.token_ids == self.config.loc_token_id
        elif pixel_values is not None:
            raise ValueError("pixel_values go with the input_ids of the first call: not with inputs_embeds, nor behind "
                             "a cache that holds tokens")  # fmt: skip
        elif inputs_embeds is None and input_ids is not None:
            inputs_embeds = self.embed_text(input_ids, coordinates)
        out = run_language_model(
            self.language_model, cache=cache, use_cache=use_cache, inputs_embeds=inputs_embeds, labels=labels,
            attention_mask=attention_mask, position_ids=position_ids,
            output_hidden_states=states or is_loc is not None, **kwargs,
        )  # fmt: skip
        output = VidLLMOutput.of(out, states, is_loc)
        return output.to_tuple() if as_tuple else output

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        coordinates: Tensor | None = None,
        prefix: VisualPrefix | None = None,
        **kwargs: Any,
    ) -> Any:
        """Hugging Face generation from video and text; returns the new tokens only (B, L')."""
        mixin: Any = super()
        if input_ids is None:
            input_ids = kwargs.pop("inputs", None)
        if input_ids is None:
            if pixel_values is not None or prefix is not None or coordinates is not None:
                raise ValueError("a scene or coordinates were given without input_ids; pass the text as input_ids")
            return mixin.generate(attention_mask=attention_mask, **kwargs)
        whole = self.prepare(input_ids, attention_mask, pixel_values, coordinates, prefix=prefix)
        return mixin.generate(inputs_embeds=whole.embeddings, attention_mask=whole.attention_mask, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token table."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token table."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head (after the vocabulary has grown)."""
        self.language_model.set_output_embeddings(new_embeddings)


def _align(model: nn.Module) -> None:
    """Move weights that lie askew in memory (as a mapped file has them): kernels choose their order of summation by
    alignment, and a loaded model is to give the saved one's outputs to the last bit.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def _fill_from_twin(model: VidLLMPreTrainedModel) -> None:
    """Our own weights that no checkpoint gave, from a model constructed anew (with a small language model)."""
    tensors = model.state_dict(keep_vars=True)
    missing = [
        name for name, tensor in tensors.items()
        if not name.startswith(("language_model.", "encoder.")) and not getattr(tensor, "_is_hf_initialized", False)
    ]  # fmt: skip
    if not missing:
        return
    config = copy.deepcopy(model.config)
    config.text_config = AutoConfig.for_model(
        "llama", hidden_size=config.text_config.hidden_size, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, vocab_size=8,
    )
    fresh = type(model)(config).state_dict()
    for name in missing:
        tensors[name].data.copy_(fresh[name])


def _in_metres(
    extrinsics: Tensor,
    intrinsics: Tensor,
    depth: Tensor,
    confidence: Tensor,
    metric: Tensor | None,
    scale: SceneScale,
    up: Tensor,
) -> Geometry:
    """Scale depth and translations; the first camera's own pose is taken as the world (it is only nearly so)."""
    first = relative_to_first(extrinsics)
    s = scale.scale.to(first.dtype)[:, None, None]
    metric_pose = torch.cat([first[..., :3, :3], first[..., :3, 3:] * s[..., None]], -1)
    return Geometry(
        metric_pose, intrinsics, depth * s[..., None].to(depth.dtype), confidence, metric, scale, up,
        scene_from_world(up.float()),
    )
