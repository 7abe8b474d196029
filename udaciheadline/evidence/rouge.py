"""ROUGE for headlines as an `evaluate.Metric` that needs no hub: `evaluate.load` takes the path of this file.

`evaluate.load("rouge")` fetches its script from the hub, and by default returns the median of a bootstrap drawn from
numpy's global state. This one gives the scores of each article, as `quality.rouge` computes them, and leaves the
averaging to whoever knows what is paired with what. A run asks `quality.rouge` itself: importing `evaluate` imports
torch and all of transformers, which costs a session seven seconds, two of them at its end.
"""

from typing import Any

import datasets
import evaluate

from udaciheadline.evidence.quality import rouge


class HeadlineRouge(evaluate.Metric):
    """F-measures in [0, 1] of rouge1, rouge2, rougeL and rougeLsum, a list with one value an article for each."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="ROUGE of each predicted headline against the true one",
            citation="Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004",
            inputs_description="predictions, references: lists of headlines of the same length",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        return rouge(predictions, references)
