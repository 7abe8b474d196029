"""Faults that a decode loop can have, planted in transformers' own, and how the parity gate judges them in bfloat16.

    python tests/planted_faults.py smollm2-135m News_Category_Dataset_v3.json 24 [cuda]

prints that table for any model and articles: which headlines are the reference's, which part from it at a near tie,
which by a real difference.
"""

import sys

import torch

from udaciheadline.checkpoints.models import load_model, load_tokenizer, resolve
from udaciheadline.data.articles import load_articles
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines.transformers import CACHE, TransformersEngine
from udaciheadline.evidence import gates, quality
from udaciheadline.records import Estimate
from udaciheadline.techniques import REFERENCE

DTYPE = "bfloat16"
TOGETHER = 8  # prompts of a job: the row's batches are of another shape than the reference's


def turned(positions):
    """Every step's rotation is of a place so many positions further."""

    def change(kwargs):
        kwargs["position_ids"] = kwargs["position_ids"] + positions

    return _in_steps(change)


def rows_swapped(kwargs):
    for layer in kwargs[CACHE].layers:
        for memory in (layer.keys, layer.values):
            if len(memory) > 1:
                memory[:2] = memory[:2].flip(0)


def last_layer_left_out(model):
    model.model.layers[-1].register_forward_hook(lambda module, args, made: args[0])


def sum_missing(model):
    """Half of the heads of one layer add nothing, as where the sum over two ranks is missing."""
    weight = model.model.layers[1].self_attn.o_proj.weight
    weight[:, weight.shape[1] // 2 :] = 0


def epsilons_tenfold(model):
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon *= 10


def _in_steps(change):
    """Damage done to what the model is given for a step of one token."""

    def damage(model):
        def hook(module, args, kwargs):
            if kwargs["input_ids"].shape[1] == 1:
                change(kwargs)
            return args, kwargs

        model.model.register_forward_pre_hook(hook, with_kwargs=True)

    return damage


FAULTS = {
    "none, as a job": None,
    "rotation off by one position": turned(1),
    "rotation off by two positions": turned(2),
    "two rows of the cache swapped": _in_steps(rows_swapped),
    "last layer left out": last_layer_left_out,
    "one rank's sum missing": sum_missing,
    "a norm's epsilon tenfold": epsilons_tenfold,
}


class Judge:
    """What the gate of an exact row says of a damaged model, against the same model undamaged, one article a time."""

    def __init__(self, checkpoint, tokenizer, articles, device="cpu"):
        self._checkpoint, self._tokenizer, self._articles, self._device = checkpoint, tokenizer, articles, device
        self._prompts = [prompt_for(article.short_description) for article in articles]
        self._reference = self._engine()
        self._expected = self._answers(self._reference, 1)
        self._theirs = [list(g.token_ids) for g in self._expected.generations]
        self._rounding = self._reference.texts.rounding(self._prompts, self._theirs)

    def __call__(self, damage):
        """The parity with the reference, and the verdict on it."""
        row = self._answers(self._engine(damage), TOGETHER)
        ours = [g.token_ids for g in row.generations]
        preferences = {}
        for i, position in quality.partings(ours, self._theirs).items():
            asked = [self._prompts[i]], [self._theirs[i][: position + 1]], [ours[i][position]]
            (preferences[i],) = self._reference.texts.preferences(*asked)
        evidence = gates.Evidence(
            articles=self._articles,
            answers=row,
            reference=self._expected,
            exact_to=REFERENCE,
            exact=self._expected,
            dtype=DTYPE,
            weights_ratio=1.0,
            speed_up=Estimate(1.0, 1.0, 1.0),
            preferences=preferences,
            rounding=self._rounding,
        )
        (verdict,) = gates.judge(gates.Thresholds(parity_low_precision_min=0.95), evidence)
        return evidence.parity, verdict

    def _engine(self, damage=None):
        model = load_model(self._checkpoint, device=self._device, dtype=DTYPE)
        if damage:
            with torch.no_grad():
                damage(model)
        return TransformersEngine(model, self._tokenizer, max_new_tokens=25)

    def _answers(self, engine, together):
        batches = [self._prompts[i : i + together] for i in range(0, len(self._prompts), together)]
        made = [generation for batch in batches for generation in engine.generate(batch)]
        nothing = [0.0] * len(made)
        return quality.Answers(tuple(made), dict.fromkeys(quality.ROUGE_TYPES, nothing), nothing)


def main(model, dataset, count, device="cpu"):
    checkpoint = resolve(model, "--model")
    articles = load_articles(dataset, int(count)).articles
    judge = Judge(checkpoint, load_tokenizer(checkpoint), articles, device)
    for name, damage in FAULTS.items():
        parity, verdict = judge(damage)
        same = sum(position is None for position in parity.positions)
        print(f"{name:30}  same {same:3}  near ties {parity.near_ties:3}  real {len(parity.real):3}  {verdict.status}")
        print(f"    {verdict.message.splitlines()[0]}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
