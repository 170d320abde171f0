"""Grounding decoder: from a ``<loc>`` token's hidden state to boxes in the room (docs/method.md, section 7).

The form is the one that LLaVA-3D's paper describes. Queries are placed at 3D patches chosen by farthest-point sampling.
In every layer they attend to their k nearest patches (with a perceptron of the relative position), then to each other
and the ``<loc>`` token with a distance bias, ``softmax(Q K^T / sqrt(d) - sigma D)`` (no bias for the token); a
perceptron after each layer predicts boxes. The score of a query is its cosine with the token over a temperature, next
to a learned "no such object". Keys, values and relative positions depend on the scene alone and are computed once for
all E expressions.

Decoding: queries and "no such object" share one softmax. Queries whose boxes overlap are one object: the query whose
neighbours have the largest total probability is taken with them, then the next of the others. The object's box is the
mean of their boxes weighted by probability, enlarged by a fraction of the spread of their centres; its score is their
sum. Nothing is returned if "no such object" has at least half of the probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vidllm.geometry.boxes import iou_oriented, points_in_boxes
from vidllm.model.configuration import GroundingConfig
from vidllm.model.outputs import GroundingOutput
from vidllm.model.patches_3d import PositionEmbedding

MASKED = -1e4  # a logit of probability 0; finite, so that gradients stay finite where everything is masked
SIZE_M = (0.02, 15.0)  # side lengths a box can have
SIZE_AT_START_M = 0.6


@dataclass(frozen=True)
class Neighbours:
    """The nearest patches of every query, nearest first: ``index``, ``mask`` (B, Q, k), ``offset`` (B, Q, k, 3)."""

    index: Tensor
    offset: Tensor
    mask: Tensor

    def first(self, k: int) -> Neighbours:
        """Only the k nearest."""
        return Neighbours(self.index[:, :, :k], self.offset[:, :, :k], self.mask[:, :, :k])


def farthest_points(
    positions: Float[Tensor, "B T 3"], mask: Bool[Tensor, "B T"], count: int
) -> tuple[Int[Tensor, "B Q"], Bool[Tensor, "B Q"]]:
    """Farthest-point sampling, from each scene's first valid point; Q = min(count, T).

    Returns the indices and a mask, false once a scene has no further valid point.
    """
    count = min(count, positions.shape[1])
    scenes = torch.arange(len(positions), device=positions.device)
    distance = torch.where(mask, torch.inf, -1.0)
    chosen = torch.zeros(len(positions), count, dtype=torch.long, device=positions.device)
    current = mask.int().argmax(1)
    for i in range(count):
        chosen[:, i] = current
        distance = torch.minimum(distance, (positions - positions[scenes, current, None]).square().sum(-1))
        current = distance.argmax(1)
    return chosen, torch.arange(count, device=mask.device) < mask.sum(1, keepdim=True)


def nearest_patches(
    queries: Float[Tensor, "B Q 3"], positions: Float[Tensor, "B T 3"], mask: Bool[Tensor, "B T"], k: int
) -> Neighbours:
    """The k nearest valid patches of every query (fewer where a scene has fewer; those are masked)."""
    distance = torch.cdist(queries, positions, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.masked_fill(~mask[:, None], torch.inf)
    near = distance.topk(min(k, positions.shape[1]), largest=False)
    return Neighbours(near.indices, gather_rows(positions, near.indices) - queries[:, :, None], near.values.isfinite())


def gather_rows(rows: Float[Tensor, "B T C"], index: Int[Tensor, "B ..."]) -> Float[Tensor, "B ... C"]:
    """``rows[b, index[b]]``."""
    picked = rows.gather(1, index.flatten(1)[..., None].expand(-1, -1, rows.shape[-1]))
    return picked.unflatten(1, index.shape[1:])


class NeighbourAttention(nn.Module):
    """Queries read their nearest patches; the relative position enters both keys and values."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.position = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, 2 * width))
        self.output = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B E Q C"], patches: Float[Tensor, "B T C"], near: Neighbours
    ) -> Float[Tensor, "B E Q C"]:
        """``x`` plus the output of attention; E may be 1 as long as ``x`` is the same for all expressions."""
        offset = self.position(near.offset.to(self.query.weight.dtype))
        local = gather_rows(self.key_value(patches), near.index) + offset
        k, v = local.unflatten(-1, (2, self.num_heads, -1)).unbind(-3)  # (B, Q, k, heads, d)
        q = self.query(self.norm(x)).unflatten(-1, (self.num_heads, -1))
        logits = torch.einsum("beqhd,bqkhd->beqhk", q, k) * q.shape[-1] ** -0.5
        weights = logits.masked_fill(~near.mask[:, None, :, None], MASKED).softmax(-1).to(v.dtype)
        return x + self.output(torch.einsum("beqhk,bqkhd->beqhd", weights, v).flatten(-2))


class DistanceAttention(nn.Module):
    """Self-attention of the queries and the ``<loc>`` token; it decreases with distance at a learned rate per head."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        rates = [3 * head / max(num_heads - 1, 1) - 1.5 for head in range(num_heads)]
        self.log_sigma = nn.Parameter(torch.tensor(rates))  # 1 / metre

    def forward(
        self, x: Float[Tensor, "B E S C"], distance: Float[Tensor, "B S S"], mask: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B E S C"]:
        """``x`` plus the output of attention; ``distance`` in metres, 0 for the token."""
        qkv = self.qkv(self.norm(x)).flatten(0, 1).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = -self.log_sigma.exp()[:, None, None] * distance[:, None]
        bias = bias.masked_fill(~mask[:, None, None], MASKED).repeat_interleave(x.shape[1], dim=0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return x + self.output(mixed.transpose(1, 2).flatten(2)).unflatten(0, x.shape[:2])


class GroundingLayer(nn.Module):
    """Attention to neighbours, then to each other and the token, then a perceptron; a box for every query."""

    def __init__(self, config: GroundingConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        self.neighbours = NeighbourAttention(width, config.num_heads)
        self.attention = DistanceAttention(width, config.num_heads)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        last = nn.Linear(width, 8)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.box = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), last)

    def forward(self, x: Tensor, loc: Tensor, scene: _Scene, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, E, Q, C), token (B, E, C) and boxes (B, E, Q, 7) after this layer."""
        x = self.neighbours(x, scene.patches, scene.near.first(k))
        x = torch.cat([x.expand(-1, loc.shape[1], -1, -1), loc[:, :, None]], dim=2)
        x = self.attention(x, scene.distance, scene.mask_with_token)
        x = x + self.mlp(x)
        queries, loc = x[:, :, :-1], x[:, :, -1]
        return queries, loc, boxes_from_raw(self.box(queries).float(), scene.query_positions)


def boxes_from_raw(raw: Float[Tensor, "B E Q 8"], anchors: Float[Tensor, "B Q 3"]) -> Float[Tensor, "B E Q 7"]:
    """Offsets from the anchors, log sizes and (sin 2 yaw, cos 2 yaw - 1) as boxes."""
    centre = anchors[:, None] + raw[..., :3]
    size = SIZE_AT_START_M * raw[..., 3:6].clamp(-8, 8).exp()
    yaw = torch.atan2(raw[..., 6:7], raw[..., 7:8] + 1) / 2
    return torch.cat([centre, size.clamp(*SIZE_M), yaw], dim=-1)


@dataclass(frozen=True)
class _Scene:
    """The inputs of the layers that are the same for every expression."""

    patches: Tensor
    near: Neighbours
    query_positions: Tensor
    distance: Tensor  # (B, Q + 1, Q + 1), metres; the token's row and column are 0
    mask_with_token: Tensor


class GroundingDecoder(nn.Module):
    """Expressions in, scored boxes out.

    Args:
        config: sizes; ``neighbours`` names the neighbourhood of each layer.
        feature_dim: width of the pooled 3D patches.
        loc_dim: width of the ``<loc>`` hidden states.
    """

    def __init__(self, config: GroundingConfig, feature_dim: int, loc_dim: int) -> None:
        super().__init__()
        if len(config.neighbours) != config.num_layers:
            raise ValueError(
                f"neighbours {config.neighbours} names {len(config.neighbours)} layers, num_layers is "
                f"{config.num_layers}: give one neighbourhood a layer"
            )
        self.config = config
        width = config.hidden_size
        self.patch_in = nn.Sequential(nn.LayerNorm(feature_dim), nn.Linear(feature_dim, width))
        self.loc_in = nn.Sequential(nn.LayerNorm(loc_dim), nn.Linear(loc_dim, width))
        self.position = PositionEmbedding(width)
        self.layers = nn.ModuleList(GroundingLayer(config) for _ in range(config.num_layers))
        self.query_out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.loc_out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.none = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.none, std=width**-0.5)

    def forward(
        self,
        features: Float[Tensor, "B T C"],
        positions: Float[Tensor, "B T 3"],
        mask: Bool[Tensor, "B T"],
        loc: Float[Tensor, "B E D"],
    ) -> GroundingOutput:
        """Boxes for each ``<loc>`` state.

        Args:
            features: pooled 3D patches.
            positions: their places in the scene frame, metres.
            mask: which of them exist.
            loc: hidden states of the expressions' ``<loc>`` tokens.
        """
        patches = self.patch_in(features.to(self.none.dtype))
        index, query_mask = farthest_points(positions.float(), mask, self.config.num_queries)
        queries = gather_rows(positions.float(), index)
        content = gather_rows(patches, index) + self.position(queries.to(self.none.dtype))
        return self._decode(content, queries, query_mask, (patches, positions.float(), mask), loc)

    def choose_proposal(
        self,
        features: Float[Tensor, "B T C"],
        positions: Float[Tensor, "B T 3"],
        mask: Bool[Tensor, "B T"],
        loc: Float[Tensor, "B E D"],
        proposals: Float[Tensor, "B M 7"],
        proposal_mask: Bool[Tensor, "B M"] | None = None,
    ) -> tuple[Float[Tensor, "B E M"], Float[Tensor, "B E"]]:
        """Logits of given candidate boxes (scene frame) and of "none of them": the same decoder, with its queries at
        the proposals' centres and the mean of the patches inside (the nearest patch where none is) as their content.
        """
        patches, positions = self.patch_in(features.to(self.none.dtype)), positions.float()
        keep = torch.ones_like(proposals[..., 0], dtype=torch.bool) if proposal_mask is None else proposal_mask
        inside = points_in_boxes(positions[:, None], proposals[:, :, None].float()) & mask[:, None]
        centres = proposals[..., :3].float()
        nearest = nearest_patches(centres, positions, mask, 1).index
        alone = torch.zeros_like(inside).scatter(2, nearest, True)
        members = torch.where(inside.any(-1, keepdim=True), inside, alone).to(patches.dtype)
        content = members @ patches / members.sum(-1, keepdim=True) + self.position(centres.to(self.none.dtype))
        output = self._decode(content, centres, keep, (patches, positions, mask), loc)
        return output.logits, output.none_logit

    def _decode(
        self, content: Tensor, queries: Tensor, query_mask: Tensor, patches: tuple[Tensor, Tensor, Tensor], loc: Tensor
    ) -> GroundingOutput:
        near = nearest_patches(queries, patches[1], patches[2], max(self.config.neighbours))
        distance = F.pad(torch.cdist(queries, queries, compute_mode="donot_use_mm_for_euclid_dist"), (0, 1, 0, 1))
        scene = _Scene(patches[0], near, queries, distance, F.pad(query_mask, (0, 1), value=True))
        x, token, boxes = content[:, None], self.loc_in(loc.to(self.none.dtype)), []
        for layer, k in zip(self.layers, self.config.neighbours, strict=True):
            x, token, box = layer(x, token, scene, k)
            boxes.append(box)
        asked = F.normalize(self.loc_out(token).float(), dim=-1) / self.config.object_temperature
        logits = (F.normalize(self.query_out(x).float(), dim=-1) * asked[:, :, None]).sum(-1)
        none_logit = (F.normalize(self.none.float(), dim=0) * asked).sum(-1)
        logits = logits.masked_fill(~query_mask[:, None], MASKED)
        return GroundingOutput(torch.stack(boxes), logits, none_logit, queries, query_mask)


CANDIDATES = 48  # most probable queries looked at
NEGLIGIBLE = 1e-2  # of the best query's probability
LEAST_SHARE = 0.3  # of the best object's score that an object needs to count
OVERLAP = 0.05  # IoU from which two queries' boxes are one object
WIDER = 0.5  # of the standard deviation of an object's centres, added to its box's size along each axis


@dataclass(frozen=True)
class GroundedBox:
    """A box (7,) in the scene frame - centre, size (metres), yaw (radians) - and its score in [0, 1]."""

    box: Tensor
    score: float


@torch.no_grad()
def decode_boxes(
    output: GroundingOutput,
    multiple: bool = True,
    max_boxes: int = 16,
    none_threshold: float = 0.5,
    average: bool = True,
) -> list[list[list[GroundedBox]]]:
    """Boxes of every expression of every scene, best first: ``result[b][e]``.

    Args:
        output: of the grounding decoder; its last layer's boxes are used.
        multiple: False keeps the best object only.
        max_boxes: at most so many.
        none_threshold: no box when "no such object" has at least this probability.
        average: False gives each object the most probable of its boxes in place of their mean.
    """
    chances = torch.cat([output.logits, output.none_logit[..., None]], -1).float().softmax(-1)
    boxes = output.boxes[-1].float()
    limit = max_boxes if multiple else 1
    result = []
    for b in range(len(boxes)):
        scene = []
        for e in range(boxes.shape[1]):
            found: list[GroundedBox] = []
            if float(chances[b, e, -1]) < none_threshold:
                found = _objects(boxes[b, e], chances[b, e, :-1], average)
            best = found[0].score if found else 0.0
            scene.append([one for one in found[:limit] if one.score >= LEAST_SHARE * best])
        result.append(scene)
    return result


def _objects(boxes: Tensor, chances: Tensor, average: bool) -> list[GroundedBox]:
    """Groups of overlapping boxes, best first."""
    top = chances.topk(min(CANDIDATES, len(chances)))
    keep = top.values > NEGLIGIBLE * top.values[0]
    boxes, chances = boxes[top.indices[keep]], top.values[keep]
    same = (iou_oriented(boxes, boxes) >= OVERLAP) | torch.eye(len(boxes), dtype=torch.bool, device=boxes.device)
    free = torch.ones_like(chances, dtype=torch.bool)
    groups = []
    while bool(free.any()):
        share = ((same & free) * chances).sum(1).masked_fill(~free, -1.0)
        members = same[share.argmax()] & free
        free = free & ~members
        box = _mean_box(boxes[members], chances[members]) if average else boxes[members][0]
        groups.append(GroundedBox(box, min(1.0, float(chances[members].sum()))))
    return sorted(groups, key=lambda group: -group.score)


def _mean_box(boxes: Float[Tensor, "K 7"], weights: Float[Tensor, " K"]) -> Float[Tensor, " 7"]:
    """Weighted mean of boxes, wider by the spread of their centres along the box's axes.

    Each is turned by quarters (its sides exchanged) to come nearest to the first one's yaw.
    """
    turned, quarter = boxes.clone(), math.pi / 2
    turns = ((boxes[0, 6] - boxes[:, 6]) / quarter).round()
    odd = turns.long() % 2 != 0
    turned[:, 6] += turns * quarter
    turned[odd, 3], turned[odd, 4] = boxes[odd, 4], boxes[odd, 3]
    shares = (weights / weights.sum())[:, None]
    mean = (turned * shares).sum(0)
    offset = turned[:, :3] - mean[:3]
    cos, sin = mean[6].cos(), mean[6].sin()
    x, y, z = offset.T
    along = torch.stack([cos * x + sin * y, cos * y - sin * x, z])
    mean[3:6] += WIDER * (along.T.square() * shares).sum(0).sqrt()
    return mean


def decode_choice(
    logits: Float[Tensor, " M"], none_logit: Float[Tensor, ""], boxes: Float[Tensor, "M 7"], multiple: bool,
    max_boxes: int = 16,
) -> list[tuple[int, float]]:
    """Indices and scores of the given boxes that an expression refers to, best first, by the rules of `decode_boxes`.

    Without ``multiple`` it is the best one, whatever the score of "no such object".
    """
    everywhere = torch.ones_like(logits, dtype=torch.bool)[None]
    output = GroundingOutput(boxes[None, None, None], logits[None, None], none_logit[None, None], boxes[None, :, :3],
                             everywhere)  # fmt: skip
    found = decode_boxes(output, multiple, max_boxes, none_threshold=0.5 if multiple else 2.0,
                         average=False)[0][0]  # fmt: skip
    return [(int((boxes == one.box.to(boxes)).all(1).int().argmax()), float(one.score)) for one in found]
