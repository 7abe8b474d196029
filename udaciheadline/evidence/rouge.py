"""ROUGE for headlines as an `evaluate.Metric` that needs no hub.

`evaluate.load("rouge")` fetches its script from the hub, and by default returns the median of a bootstrap drawn from
numpy's global state. This one scores with the same `rouge_score` package, article by article, and leaves the averaging
to whoever knows what is paired with what. `evaluate.load` takes the path of this file, too.
"""

from typing import Any

import datasets
import evaluate
from rouge_score import rouge_scorer

ROUGE_TYPES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


class HeadlineRouge(evaluate.Metric):
    """F-measures in [0, 1] of rouge1, rouge2, rougeL and rougeLsum, a list with one value an article for each.

    Without stemming, as in the notebook. Lin 2004 (https://aclanthology.org/W04-1013/).
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="ROUGE of each predicted headline against the true one",
            citation="Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004",
            inputs_description="predictions, references: lists of headlines of the same length",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, use_stemmer=False)
        rows = [scorer.score(true, made) for made, true in zip(predictions, references, strict=True)]
        return {kind: [row[kind].fmeasure for row in rows] for kind in ROUGE_TYPES}
