"""Attention and position supervision of a small language model during training (ours).

Attention: until the model attends to the sofa's patches at the word "sofa", it gets no information from them, and until
then nothing teaches it to attend there. The rooms know what every word refers to, so five heads get a cross-entropy on
their attention over the visual prefix:

    "sofa", "sofas"   -> patches of that category          ``<coord>`` -> patches near its point
    "red"             -> patches of that colour            ``<loc>``   -> patches inside its target boxes
    "red sofa"        -> patches of both                   last token before an answer -> the question's first object

Positions: a projector trained only by answers keeps what most answers need. In rooms, the distance to the left, which
few kinds of questions need, was lost before the language model (docs/log.md). Losses therefore require positions in
metres along fixed directions of the hidden states, three per object:

* of every visual token;
* of every noun, after the layer with its supervised head;
* at the last token before an answer, of the objects of the question, each along its own three directions: the first,
  second and third object; with a situation also the viewer's place (as third) and the faced object.

The model has no additional weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from vidllm.english import plural
from vidllm.geometry.boxes import points_in_boxes
from vidllm.model.language_model import rotated
from vidllm.model.outputs import VisualPrefix
from vidllm.model.text import IGNORE_INDEX
from vidllm.training.data import Batch
from vidllm.training.lora import weight_of
from vidllm.training.losses import masked_mean
from vidllm.training.packing import PackedTexts
from vidllm.training.supervision.base import LanguageOutputs, Parts, Supervision, Terms

#: (layer, head) of the guided heads; a model with fewer layers uses its last, one with fewer heads begins again.
HEADS = {"category": (1, 0), "colour": (0, 1), "coord": (0, 2), "loc": (2, 0), "answer": (2, 1)}
NEAR_M = 0.4  # targets of a <coord> are the patches nearer than this, or the nearest few
BOX_MARGIN_M = 0.1
WORD_TEMPERATURE = 0.1
MAX_NAME_TOKENS = 2  # from a colour to the last token of its noun

TELLING = ("category", "answer")  # kinds of tokens with position supervision
SEED = 11_26
THINGS = 4  # objects of an answer
COSINE_A_METRE = 0.08  # cosine of a token with the direction of an axis, per metre
FARTHEST_M = 7.5  # coordinates are clipped to this
ONE_PLACE_M = 1.0  # nouns whose patches have a larger standard deviation have no position

#: rows (n,), positions in the text (n,), target patches (n,T)
Wanted = tuple[Tensor, Tensor, Tensor]
Mentions = Sequence[Sequence[tuple[int, str, int]]]  # of each row: (place of the last token, kind, class), in order


@dataclass
class PatchNames:
    """Labels of the pooled patches: (B,T,classes) each, true if any patch pooled into it has the label."""

    category: Tensor
    colour: Tensor
    material: Tensor


def pooled_names(
    inverse: Int[Tensor, "B N"], shown: Sequence[Int[Tensor, "B F P"]], counts: Sequence[int], length: int
) -> PatchNames:
    """Labels of each pooled patch (of ``length``) from those of its patches; class 0 (floor, walls, ceiling) is kept.

    ``shown`` are category, colour and material of every patch, ``counts`` the numbers of classes.
    """
    tables = []
    for classes, count in zip(shown, counts, strict=True):
        table = torch.zeros(len(inverse), length + 1, count, dtype=torch.bool, device=inverse.device)
        rows = torch.arange(len(inverse), device=inverse.device)[:, None].expand_as(inverse)
        table[rows, inverse, classes.flatten(1)] = True  # -1 lands in the last row, which is dropped
        tables.append(table[:, :length])
    return PatchNames(*tables)


class Vocabulary:
    """Token sequences of names, to find them in texts; longer names take precedence over names inside them."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, categories: Sequence[str], colours: Sequence[str],
        materials: Sequence[str] = (),
    ) -> None:
        self.patterns: dict[int, list[tuple[tuple[int, ...], str, int]]] = {}
        #: the last token of each name, in order: how its patches should look to the language model
        self.words: dict[str, list[int]] = {"category": [], "colour": []}
        if materials:
            self.words["material"] = [tokenizer(" " + m, add_special_tokens=False)["input_ids"][-1] for m in materials]
        for kind, names in (("category", categories), ("colour", colours)):
            for index, name in enumerate(names):
                plain = name.replace("_", " ")
                for word in {plain, plural(plain)} if kind == "category" else {plain}:
                    ids = tuple(tokenizer(" " + word, add_special_tokens=False)["input_ids"])
                    self.patterns.setdefault(ids[-1], []).append((ids, kind, index + 1))
                    if word == plain:
                        self.words[kind].append(ids[-1])
        #: tokens that end a sentence
        self.stop = {i for i in range(len(tokenizer)) if str(tokenizer.decode([i])).strip() == "."}
        for found in self.patterns.values():
            found.sort(key=lambda p: -len(p[0]))

    def mentions(self, ids: Sequence[int]) -> list[tuple[int, str, int]]:
        """(position of the last token, kind, class) of every name."""
        found: list[tuple[int, str, int]] = []
        end = len(ids)
        while end > 0:
            for pattern, kind, index in self.patterns.get(ids[end - 1], ()):
                if tuple(ids[max(0, end - len(pattern)) : end]) == pattern:
                    found.append((end - 1, kind, index))
                    end -= len(pattern) - 1
                    break
            end -= 1
        return found


class WordAttention:
    """Hooks on some layers of a Llama-form language model that compute the losses of the supervised heads."""

    def __init__(self, language_model: Any, vocabulary: Vocabulary, coord_token_id: int) -> None:
        layers, heads = language_model.base_model.layers, language_model.config.num_attention_heads
        self._vocabulary, self._coord = vocabulary, coord_token_id
        self.words = vocabulary.words
        self._heads = {kind: (min(layer, len(layers) - 1), head % heads) for kind, (layer, head) in HEADS.items()}
        heard = {layer for layer, _ in self._heads.values()}
        #: for each kind with position supervision, the layer after that of its head, if there is one
        self._behind = {kind: self._heads[kind][0] + 1 for kind in TELLING if self._heads[kind][0] + 1 < len(layers)}
        heard |= set(self._behind.values())
        self._modules: dict[int, Any] = {layer: layers[layer].self_attn for layer in heard}
        self._heard: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for layer, module in self._modules.items():
            module.register_forward_pre_hook(partial(self._listen, layer), with_kwargs=True)

    def _listen(self, layer: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._heard[layer] = (args[0] if args else kwargs["hidden_states"], *kwargs["position_embeddings"])

    def loss(
        self, prefix: VisualPrefix, names: PatchNames, packed: PackedTexts, start: tuple[int, int]
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Cross-entropy of the supervised heads' attention over the 3D patches, averaged over kinds; the position
        errors of nouns and answers; and the attention of each kind on its targets.

        ``start`` = positions of the first 3D patch and of the first text token in the sequence.
        """
        terms, figures = [], {}
        wanted = self._wanted(prefix, names, packed)
        telling = self._telling(prefix, wanted, start[1])
        for kind, (rows, places, targets) in wanted.items():
            if kind not in self._heads or not bool((targets := targets & prefix.patch_mask[rows]).any()):
                continue
            logits = self._attention(kind, rows, places + start[1], start[0], prefix.patch_mask)
            share = torch.logsumexp(logits.masked_fill(~targets, -1e4), -1) - torch.logsumexp(logits, -1)
            known = targets.any(-1)
            terms.append(-masked_mean(share, known))
            figures[f"look_{kind}"] = float(masked_mean(share.detach().exp(), known))
        self._heard.clear()
        return torch.stack(terms).mean() if terms else prefix.tokens.sum() * 0, telling, figures

    def _telling(self, prefix: VisualPrefix, wanted: Mapping[str, Wanted], start: int) -> Tensor:
        """Summed position errors of nouns and of the tokens before answers."""
        total = prefix.tokens.sum() * 0
        for kind, (rows, places, meant) in wanted.items():
            teller, _, thing = kind.partition("_")
            if teller in self._behind:
                heard, told = self._heard[self._behind[teller]][0], meant & prefix.patch_mask[rows]
                at = rows, places + start
                total = total + text_positions_loss(heard, *at, told, prefix.patch_positions, int(thing or 0))
        return total

    def _wanted(self, prefix: VisualPrefix, names: PatchNames, packed: PackedTexts) -> dict[str, Wanted]:
        """The target patches of each kind of token. ``answer_1`` and on are the further objects of an answer (without
        patches if there are fewer).
        """
        found = [self._vocabulary.mentions(ids)[::-1] for ids in packed.input_ids.tolist()]
        wanted = {"category": _things(found, names, packed), "colour": _colours(found, names, packed)}
        wanted["coord"] = self._near_points(prefix, packed)
        wanted["loc"] = _in_boxes(prefix, packed)
        rows, places, things = self._asked(packed, [wanted["coord"], wanted["category"]])
        wanted["answer"] = rows, places, things[0]
        wanted |= {f"answer_{i}": (rows, places, thing) for i, thing in enumerate(things[1:], 1)}
        return {kind: value for kind, value in wanted.items() if len(value[0])}

    def _asked(self, packed: PackedTexts, meant: list[Wanted]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The last token before each answer: row, position, and the patches of each object of the question.

        The first is that of the question's first noun (or ``<coord>``). Objects of a situation before the question come
        last.
        """
        found: list[tuple[int, int]] = []
        about: list[list[Tensor]] = []
        none = meant[0][2].new_zeros(meant[0][2].shape[1], dtype=torch.bool)
        for row, (ids, labels, segments) in enumerate(
            zip(packed.input_ids.tolist(), packed.labels.tolist(), packed.segment.tolist(), strict=True)
        ):
            places = {int(p): t for r, ps, ts in meant for p, t in zip(ps[r == row], ts[r == row], strict=True)}
            begin = 0
            for place in range(1, len(ids)):
                if segments[place] != segments[place - 1]:
                    begin = place
                elif labels[place] != IGNORE_INDEX and labels[place - 1] == IGNORE_INDEX:
                    stops = [at for at in range(begin, place - 3) if ids[at] in self._vocabulary.stop]
                    asks = stops[-1] if stops else begin
                    asked = [places[at] for at in range(asks, place) if at in places]
                    if asked:
                        situated = [places[at] for at in range(begin, asks) if at in places]
                        found.append((row, place - 1))
                        third = asked[2:3] or situated[:1]  # or the place of a situation
                        rest = [part[0] if part else none for part in (asked[1:2], third, situated[1:2])]
                        about.append([asked[0], *rest])
        rows, at = _columns(found, 2, packed)
        return rows, at, [torch.stack([a[i] for a in about]) if about else meant[0][2][:0] for i in range(THINGS)]

    def _near_points(self, prefix: VisualPrefix, packed: PackedTexts) -> Wanted:
        is_point = packed.input_ids == self._coord
        rows, places = is_point.nonzero().unbind(1)
        order = (is_point.long().cumsum(1) - 1)[rows, places]
        points = packed.coordinates[rows, order]
        distance = (prefix.patch_positions[rows] - points[:, None]).norm(dim=-1)
        distance = distance.masked_fill(~prefix.patch_mask[rows], torch.inf)
        nearest = distance.min(dim=1, keepdim=True).values if len(rows) else distance[:, :1]
        return rows, places, distance <= (1.2 * nearest).clamp(min=NEAR_M)

    def _attention(
        self, kind: str, rows: Int[Tensor, " n"], places: Int[Tensor, " n"], first: int, mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "n T"]:
        """Attention logits of the kind's head from (row, place) over the 3D patches; -1e4 where there is none."""
        layer, head = self._heads[kind]
        hidden, cos, sin = self._heard[layer]
        module = self._modules[layer]
        size, end = module.head_dim, first + mask.shape[1]
        shared = head // module.num_key_value_groups
        q = F.linear(hidden[rows, places], weight_of(module.q_proj)[head * size : (head + 1) * size])
        k = F.linear(hidden[:, first:end], weight_of(module.k_proj)[shared * size : (shared + 1) * size])
        cos, sin = cos.expand(len(hidden), -1, -1), sin.expand(len(hidden), -1, -1)
        q = rotated(q.float(), (cos[rows, places].float(), sin[rows, places].float()))
        k = rotated(k.float(), (cos[:, first:end].float(), sin[:, first:end].float()))
        logits = torch.einsum("nd,ntd->nt", q, k[rows]) * module.scaling
        return logits.masked_fill(~mask[rows], -1e4)


def token_words_loss(
    prefix: VisualPrefix, names: PatchNames, table: Float[Tensor, "V D"], words: dict[str, list[int]]
) -> Tensor:
    """Cross-entropy between the words whose embeddings a visual token resembles and the labels of its patches.

    With tokens near the embeddings of "red" and "sofa", copying answers every question for a colour.
    """
    count = prefix.patch_mask.shape[1]
    tokens = F.normalize(prefix.tokens[:, -count:].float(), dim=-1)
    terms = []
    for kind in words:
        classes: Tensor = getattr(names, kind)
        directions = F.normalize(table[torch.tensor(words[kind], device=table.device)].detach().float(), dim=-1)
        target = (classes[..., 1:] & prefix.patch_mask[..., None]).float()
        known = target.sum(-1)
        logs = (tokens @ directions.T / WORD_TEMPERATURE).log_softmax(-1)
        terms.append(-masked_mean((target * logs).sum(-1) / known.clamp(min=1), known > 0))
    return torch.stack(terms).mean()


def _things(mentions: Mentions, names: PatchNames, packed: PackedTexts) -> Wanted:
    """Nouns; with a colour right before them ("red table lamp"), the patches of both."""
    found = []
    for row, told in enumerate(mentions):
        before = (-9, "", 0)
        for place, kind, index in told:
            close = before[1] == "colour" and place - before[0] <= MAX_NAME_TOKENS
            if kind == "category":
                found.append((row, place, index, before[2] if close else -1))
            before = (place, kind, index)
    rows, places, classes, colours = _columns(found, 4, packed)
    targets = names.category[rows, :, classes]
    both = targets & names.colour[rows, :, colours.clamp(min=0)]
    return rows, places, torch.where((colours >= 0)[:, None], both, targets)


def _colours(mentions: Mentions, names: PatchNames, packed: PackedTexts) -> Wanted:
    named = ((row, *one) for row, told in enumerate(mentions) for one in told)
    found = [(row, place, index) for row, place, kind, index in named if kind == "colour"]
    rows, places, classes = _columns(found, 3, packed)
    return rows, places, names.colour[rows, :, classes]


def _columns(found: Sequence[tuple[int, ...]], count: int, packed: PackedTexts) -> tuple[Tensor, ...]:
    return torch.tensor(found, dtype=torch.long, device=packed.input_ids.device).reshape(-1, count).unbind(1)


def _in_boxes(prefix: VisualPrefix, packed: PackedTexts) -> Wanted:
    """``<loc>`` tokens and the patches inside any of their boxes."""
    rows, order = packed.loc_mask.nonzero().unbind(1)
    boxes = packed.boxes[rows, order].clone()
    boxes[..., 3:6] += 2 * BOX_MARGIN_M
    inside = points_in_boxes(prefix.patch_positions[rows][:, :, None].float(), boxes[:, None])
    return rows, packed.loc[rows, order], (inside & packed.box_mask[rows, order][:, None]).any(-1)

# ---- positions in the hidden states --------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def directions(width: int) -> Float[Tensor, "D 12"]:
    """Orthonormal directions of hidden states of ``width``, the same for all runs: three axes for each of ``THINGS``
    objects.
    """
    generator = torch.Generator().manual_seed(SEED)
    drawn = [torch.randn(width, 6, generator=generator) for _ in range(THINGS // 2)]  # two things at a time
    return torch.linalg.qr(torch.cat(drawn, 1)).Q


def read_positions(stream: Float[Tensor, "*batch D"], thing: int = 0) -> Float[Tensor, "*batch 3"]:
    """The position of an object, metres in the scene frame, that hidden states encode along its three directions."""
    axes = directions(stream.shape[-1])[:, 3 * thing : 3 * thing + 3].to(stream.device)
    return F.normalize(stream.float(), dim=-1) @ axes / COSINE_A_METRE


def token_positions_loss(prefix: VisualPrefix) -> Tensor:
    """Mean L1 distance (metres) between the positions encoded in visual tokens and those of their patches."""
    told = read_positions(prefix.tokens[:, -prefix.patch_mask.shape[1] :])
    return masked_mean(_distance(told, prefix.patch_positions), prefix.patch_mask)


def text_positions_loss(
    stream: Float[Tensor, "B S D"],
    rows: Int[Tensor, " n"],
    places: Int[Tensor, " n"],
    meant: Bool[Tensor, "n T"],
    positions: Float[Tensor, "B T 3"],
    thing: int = 0,
) -> Tensor:
    """The same for text tokens at (row, position) of the hidden states and the mean position of the patches ``meant``.

    0 if none of these has one position.
    """
    count = meant.sum(-1, keepdim=True)
    own = positions[rows].float()
    centre = (own * meant[..., None]).sum(1) / count.clamp(min=1)
    spread = ((own - centre[:, None]).square().sum(-1) * meant).sum(-1) / count[:, 0].clamp(min=1)
    known = (count[:, 0] > 0) & (spread.sqrt() < ONE_PLACE_M)
    return masked_mean(_distance(read_positions(stream[rows, places], thing), centre), known)


def _distance(told: Tensor, true: Tensor) -> Tensor:
    return (told - true.float().clamp(-FARTHEST_M, FARTHEST_M)).abs().sum(-1)


# ---- the supervision -----------------------------------------------------------------------------------------------


class Words(Supervision[LanguageOutputs]):
    """Attention of words to the patches they refer to; also positions (``place_weight``) and ``resemble_weight``."""

    name = "word"
    reads = LanguageOutputs

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.labels = labels = parts.labels
        words = Vocabulary(parts.texts.tokenizer, labels.categories, labels.colours, labels.materials)
        self.attention = WordAttention(parts.model.language_model, words, parts.texts.special_ids[2])

    def loss(self, outputs: LanguageOutputs, batch: Batch) -> Terms:
        """``words``, ``places`` and ``resemble``; the attention of each kind of word on its targets."""
        weights, prefix = self.weights, outputs.prefix
        shown = (batch.category, batch.colour, batch.material)
        names = pooled_names(prefix.patch_index, shown, self.labels.sizes, prefix.patch_mask.shape[1])
        looking, telling, figures = self.attention.loss(prefix, names, outputs.packed, outputs.start)
        terms = {"words": self.weight * looking}
        if weights.place_weight > 0:
            terms["places"] = weights.place_weight * (token_positions_loss(prefix) + telling)
        if weights.resemble_weight > 0 and self.labels.categories:
            table = outputs.model.token_table()
            terms["resemble"] = weights.resemble_weight * token_words_loss(prefix, names, table, self.attention.words)
        return terms, figures
