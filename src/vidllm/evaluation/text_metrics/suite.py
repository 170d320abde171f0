"""The four caption metrics together, as every evaluator of answers and captions reports them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vidllm.evaluation.protocols import NOT_AVAILABLE
from vidllm.evaluation.text_metrics.bleu import bleu
from vidllm.evaluation.text_metrics.cider import cider
from vidllm.evaluation.text_metrics.meteor import meteor
from vidllm.evaluation.text_metrics.rouge import rouge_l
from vidllm.evaluation.text_metrics.scores import Scores

__all__ = ["CaptionScores", "caption_scores"]


@dataclass(frozen=True)
class CaptionScores:
    """BLEU-1 to BLEU-4, METEOR (None without Java or the jar), ROUGE-L and CIDEr of one corpus."""

    bleu: Scores
    meteor: Scores | None
    rouge_l: Scores
    cider: Scores

    def meteor_total(self, factor: float = 1.0) -> float | str:
        """METEOR times ``factor``, or "n/a"."""
        return NOT_AVAILABLE if self.meteor is None else self.meteor.total[0] * factor

    def totals(self, names: Sequence[str], factor: float = 1.0) -> dict[str, float | str]:
        """The seven numbers under ``names`` (BLEU-1 to BLEU-4, METEOR, ROUGE-L, CIDEr), times ``factor``."""
        values: list[float | str] = [value * factor for value in self.bleu.total]
        values += [self.meteor_total(factor), self.rouge_l.total[0] * factor, self.cider.total[0] * factor]
        return dict(zip(names, values, strict=True))

    def leo(self, ending: str = "") -> dict[str, float | str]:
        """The four numbers that LEO's evaluators give: CIDEr, BLEU-4, METEOR and ROUGE-L."""
        names = (f"{name}{ending}" for name in ("cider", "bleu", "meteor", "rouge"))
        values = (self.cider.total[0], self.bleu.total[3], self.meteor_total(), self.rouge_l.total[0])
        return dict(zip(names, values, strict=True))

    def item(self, index: int) -> dict[str, Any]:
        """The values of one item."""
        return {
            "bleu": list(self.bleu.per_item[index]),
            "meteor": NOT_AVAILABLE if self.meteor is None else self.meteor.per_item[index][0],
            "rouge_l": self.rouge_l.per_item[index][0],
            "cider": self.cider.per_item[index][0],
        }


def caption_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], paraphrases: bool = True
) -> CaptionScores:
    """All metrics of texts that are already prepared as the protocol wants them; METEOR with ``paraphrases`` or not."""
    pairs = references, hypotheses
    return CaptionScores(bleu(*pairs), meteor(*pairs, paraphrases), rouge_l(*pairs), cider(*pairs))
