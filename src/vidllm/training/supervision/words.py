"""Word guide (ours): heads of a small language model are shown which 3D patches a word means, while it trains.

Binding words to patches by chance costs a small model most of its training: until it attends to the sofa's patches at
the word "sofa", a patch tells it nothing, and until patches tell it something, nothing makes it attend there. The rooms
know what every word means. Five guided heads get a cross-entropy on where they look in the visual prefix:

    "sofa", "sofas"   -> patches of that category          ``<coord>`` -> patches near its point
    "red"             -> patches of that colour            ``<loc>``   -> patches inside the boxes that it shall find
    "red sofa"        -> patches of both                   the last token before an answer -> the first thing asked of

Nothing is added to the model, and nothing of it is needed once it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from vidllm.english import plural
from vidllm.geometry.boxes import points_in_boxes
from vidllm.model.outputs import VisualPrefix
from vidllm.model.text import IGNORE_INDEX
from vidllm.training.data import Batch
from vidllm.training.lora import weight_of
from vidllm.training.losses import masked_mean
from vidllm.training.packing import PackedTexts
from vidllm.training.supervision.base import LanguageOutputs, Parts, Supervision, Terms
from vidllm.training.supervision.positions import THINGS, text_positions_loss, token_positions_loss

#: (layer, head) of the guided heads; a model with fewer layers uses its last, one with fewer heads begins again.
HEADS = {"category": (1, 0), "colour": (0, 1), "coord": (0, 2), "loc": (2, 0), "answer": (2, 1)}
NEAR_M = 0.4  # patches this near to a <coord> are meant by it, or the nearest few
BOX_MARGIN_M = 0.1
WORD_TEMPERATURE = 0.1
MAX_NAME_TOKENS = 2  # from a colour to the last token of the noun that it goes with

TELLING = ("category", "answer")  # kinds whose tokens tell the place of what they look at (positions)

#: rows (n,), places in the text (n,), the patches meant (n,T)
Wanted = tuple[Tensor, Tensor, Tensor]
Mentions = Sequence[Sequence[tuple[int, str, int]]]  # of each row: (place of the last token, kind, class), in order


@dataclass
class PatchNames:
    """What the pooled patches of a batch show: (B,T,classes) each, true where any patch pooled into it shows it."""

    category: Tensor
    colour: Tensor
    material: Tensor


def pooled_names(
    inverse: Int[Tensor, "B N"], shown: Sequence[Int[Tensor, "B F P"]], counts: Sequence[int], length: int
) -> PatchNames:
    """Names of each pooled patch (of ``length``) from those of the patches pooled into it; class 0 (shell) is kept.

    ``shown`` are category, colour and material of every patch, ``counts`` how many classes each has.
    """
    tables = []
    for classes, count in zip(shown, counts, strict=True):
        table = torch.zeros(len(inverse), length + 1, count, dtype=torch.bool, device=inverse.device)
        rows = torch.arange(len(inverse), device=inverse.device)[:, None].expand_as(inverse)
        table[rows, inverse, classes.flatten(1)] = True  # -1 lands in the last row, which is dropped
        tables.append(table[:, :length])
    return PatchNames(*tables)


class Vocabulary:
    """Token sequences of names, to find them in text; longer names win over names inside them."""

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
        """(place of the last token, kind, class) of every name."""
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
    """Listens to some layers of a Llama-form language model and scores where its guided heads look."""

    def __init__(
        self, language_model: nn.Module, vocabulary: Vocabulary, coord_token_id: int
    ) -> None:
        model: Any = language_model
        layers = model.base_model.layers
        self._vocabulary, self._coord = vocabulary, coord_token_id
        self.words = vocabulary.words
        heads = model.config.num_attention_heads
        self._heads = {kind: (min(layer, len(layers) - 1), head % heads) for kind, (layer, head) in HEADS.items()}
        heard = {layer for layer, _ in self._heads.values()}
        #: for each kind that tells places, the first layer that reads what its head has seen, if there is one
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
        """Cross-entropy of the guided heads' attention over the 3D patches, averaged over kinds; how far off the places
        are that nouns tell (:mod:`~vidllm.training.supervision.positions`); and each kind's attention on its targets.

        ``start`` = places of the first 3D patch and of the first text token in the sequence that was heard.
        """
        terms, figures = [], {}
        wanted = self._wanted(prefix, names, packed)
        telling = self._telling(prefix, wanted, start[1])
        for kind, (rows, places, targets) in wanted.items():
            if kind not in self._heads:
                continue
            targets = targets & prefix.patch_mask[rows]
            if not bool(targets.any()):
                continue
            logits = self._attention(kind, rows, places + start[1], start[0], prefix.patch_mask)
            share = torch.logsumexp(logits.masked_fill(~targets, -1e4), -1) - torch.logsumexp(logits, -1)
            known = targets.any(-1)
            terms.append(-masked_mean(share, known))
            figures[f"look_{kind}"] = float(masked_mean(share.detach().exp(), known))
        self._heard.clear()
        if not terms:
            return prefix.tokens.sum() * 0, telling, figures
        return torch.stack(terms).mean(), telling, figures

    def _telling(self, prefix: VisualPrefix, wanted: Mapping[str, Wanted], start: int) -> Tensor:
        """Summed errors of the places that nouns and the tokens before answers tell."""
        total = prefix.tokens.sum() * 0
        for kind, (rows, places, meant) in wanted.items():
            teller, _, thing = kind.partition("_")
            if teller in self._behind:
                heard = self._heard[self._behind[teller]][0]
                told = meant & prefix.patch_mask[rows]
                total = total + text_positions_loss(
                    heard, rows, places + start, told, prefix.patch_positions, int(thing or 0)
                )
        return total

    def _wanted(
        self, prefix: VisualPrefix, names: PatchNames, packed: PackedTexts
    ) -> dict[str, Wanted]:
        """What each kind's words mean. ``answer_1`` and on are of the other things that an answer is about (no patches
        where it is about fewer): see :mod:`vidllm.training.supervision.positions`.
        """
        found = [self._vocabulary.mentions(ids)[::-1] for ids in packed.input_ids.tolist()]
        wanted = {"category": _things(found, names, packed), "colour": _colours(found, names, packed)}
        wanted["coord"] = self._near_points(prefix, packed)
        wanted["loc"] = _in_boxes(prefix, packed)
        rows, places, things = self._asked(packed, [wanted["coord"], wanted["category"]])
        wanted["answer"] = rows, places, things[0]
        wanted |= {f"answer_{i}": (rows, places, thing) for i, thing in enumerate(things[1:], 1)}
        return {kind: value for kind, value in wanted.items() if len(value[0])}

    def _asked(
        self, packed: PackedTexts, meant: list[tuple[Tensor, Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The last token before each answer: row, place, and the patches of each thing that it is about.

        The first is what the question's first noun (or ``<coord>``) means. A situation told before it comes after.
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
                        about.append(_things_of(asked, situated, none))
        rows, at = _columns(found, 2, packed)
        return rows, at, [torch.stack([a[i] for a in about]) if about else meant[0][2][:0] for i in range(THINGS)]

    def _near_points(self, prefix: VisualPrefix, packed: PackedTexts) -> tuple[Tensor, Tensor, Tensor]:
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
        q = _rotate(q.float(), cos[rows, places].float(), sin[rows, places].float())
        k = _rotate(k.float(), cos[:, first:end].float(), sin[:, first:end].float())
        logits = torch.einsum("nd,ntd->nt", q, k[rows]) * module.scaling
        return logits.masked_fill(~mask[rows], -1e4)


def token_words_loss(
    prefix: VisualPrefix, names: PatchNames, table: Float[Tensor, "V D"], words: dict[str, list[int]]
) -> Tensor:
    """Cross-entropy of the words that a visual token's direction resembles with the names of its patches.

    A token near the embeddings of "red" and "sofa" lets one and the same act of copying answer every colour question.
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


def _things_of(asked: Sequence[Tensor], situated: Sequence[Tensor], none: Tensor) -> list[Tensor]:
    """The first, second and third thing asked of, and what a situation faces; its place stands in for the third."""
    third = asked[2] if len(asked) > 2 else situated[0] if situated else none
    return [asked[0], asked[1] if len(asked) > 1 else none, third, situated[1] if len(situated) > 1 else none]


def _things(mentions: Mentions, names: PatchNames, packed: PackedTexts) -> tuple[Tensor, Tensor, Tensor]:
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


def _colours(mentions: Mentions, names: PatchNames, packed: PackedTexts) -> tuple[Tensor, Tensor, Tensor]:
    found = [
        (row, place, index) for row, told in enumerate(mentions) for place, kind, index in told if kind == "colour"
    ]
    rows, places, classes = _columns(found, 3, packed)
    return rows, places, names.colour[rows, :, classes]


def _columns(found: Sequence[tuple[int, ...]], count: int, packed: PackedTexts) -> tuple[Tensor, ...]:
    return torch.tensor(found, dtype=torch.long, device=packed.input_ids.device).reshape(-1, count).unbind(1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in Llama's layout (halves)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _in_boxes(prefix: VisualPrefix, packed: PackedTexts) -> tuple[Tensor, Tensor, Tensor]:
    """``<loc>`` tokens and the patches inside any of their boxes."""
    rows, order = packed.loc_mask.nonzero().unbind(1)
    boxes = packed.boxes[rows, order].clone()
    boxes[..., 3:6] += 2 * BOX_MARGIN_M
    inside = points_in_boxes(prefix.patch_positions[rows][:, :, None].float(), boxes[:, None])
    return rows, packed.loc[rows, order], (inside & packed.box_mask[rows, order][:, None]).any(-1)


class Words(Supervision[LanguageOutputs]):
    """Attention of words to the patches they mean; with it positions (``place_weight``) and ``resemble_weight``."""

    name = "word"
    reads = LanguageOutputs

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.labels = parts.labels
        labels = parts.labels
        words = Vocabulary(parts.texts.tokenizer, labels.categories, labels.colours, labels.materials)
        self.attention = WordAttention(parts.model.language_model, words, parts.texts.special_ids[2])

    def loss(self, outputs: LanguageOutputs, batch: Batch) -> Terms:
        """``words``, ``places`` and ``resemble``; the attention that each kind of word puts where it should."""
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
