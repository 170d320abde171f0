"""Supervision of steps on language (ours): what words attend to, what visual tokens resemble, positions."""

from __future__ import annotations

from vidllm.training.data import Batch
from vidllm.training.supervision.base import LanguageOutputs, Parts, Supervision, Terms
from vidllm.training.supervision.positions import token_positions_loss
from vidllm.training.supervision.words import Vocabulary, WordAttention, pooled_names, token_words_loss


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
        config, prefix = self.config, outputs.prefix
        shown = (batch.category, batch.colour, batch.material)
        names = pooled_names(prefix.patch_index, shown, self.labels.sizes, prefix.patch_mask.shape[1])
        looking, telling, figures = self.attention.loss(prefix, names, outputs.packed, outputs.start)
        terms = {"words": self.weight * looking}
        if config.place_weight > 0:
            terms["places"] = config.place_weight * (token_positions_loss(prefix) + telling)
        if config.resemble_weight > 0 and self.labels.categories:
            table = outputs.model.token_table()
            terms["resemble"] = config.resemble_weight * token_words_loss(prefix, names, table, self.attention.words)
        return terms, figures
