"""The four caption metrics together, as every evaluator of answers and captions reports them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vidllm.evaluation.protocols import NOT_AVAILABLE
from vidllm.evaluation.text_metrics.meteor import meteor
from vidllm.evaluation.text_metrics.ngrams import Scores, bleu, cider, rouge_l


@dataclass(frozen=True)
class CaptionScores:
    """BLEU-1 to BLEU-4, METEOR (None without Java or the jar), ROUGE-L and CIDEr of one corpus."""

    bleu: Scores
    meteor: Scores | None
    rouge_l: Scores
    cider: Scores

    def totals(self, names: Sequence[str], factor: float = 1.0) -> dict[str, float | str]:
        """The seven numbers under ``names`` (BLEU-1 to BLEU-4, METEOR, ROUGE-L, CIDEr), times ``factor``."""
        meteor_total = NOT_AVAILABLE if self.meteor is None else self.meteor.total[0] * factor
        values = [value * factor for value in (*self.bleu.total, self.rouge_l.total[0], self.cider.total[0])]
        return dict(zip(names, (*values[:4], meteor_total, *values[4:]), strict=True))

    def column(self, index: int) -> list[float] | None:
        """Every item's value of one of the seven; None where METEOR is not available."""
        if index < 4:
            return [item[index] for item in self.bleu.per_item]
        scores = (self.meteor, self.rouge_l, self.cider)[index - 4]
        return None if scores is None else [item[0] for item in scores.per_item]

    def leo(self, ending: str = "") -> dict[str, float | str]:
        """The four numbers that LEO's evaluators give: CIDEr, BLEU-4, METEOR and ROUGE-L."""
        found = self.totals(("", "", "", "bleu", "meteor", "rouge", "cider"))
        return {f"{name}{ending}": found[name] for name in ("cider", "bleu", "meteor", "rouge")}

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
