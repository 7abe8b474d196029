"""What the techniques that remove weights share: how much they remove, what the loss is, and the row.

A row takes a checkpoint that stands ready (`EngineSpec.pruned`: of the embedded model those that ship, healed; of
another one what `--pruned-model` names), or prunes the model itself, without healing, as its worker starts. Either way
it runs what is left as an ordinary, smaller model of the same family.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from udaciheadline.engines import Engine, build_engine
from udaciheadline.records import Article, EngineSpec, Unsupported, UsageError

SHARE = 0.25
"""Of the weights of the model's layers, that are removed at least. Those of the vocabulary, which stay, do not
count: in a large model they are few."""

PRUNED = ("depth-pruned", "width-pruned")
"""The techniques that remove weights, for which a checkpoint may stand ready."""

ARTICLES = 8
"""That a row prunes a model by: depth pruning reads them dozens of times."""

Loss = Callable[[], float]
"""Mean negative log-likelihood of true headlines under the model as it is now, in nats a token."""

Prune = Callable[[Any, Loss], dict[str, float]]
"""Removes weights of a transformers model, in place, by what they do to the loss; a technique's own figures."""

PruneBy = Callable[[Any, Any, Sequence[Article]], dict[str, float]]
"""The same by what articles say, given a tokenizer: `prune_with`, as a row does it."""


def headline_loss(model: Any, tokenizer: Any, articles: Sequence[Article]) -> Loss:
    """The loss of a transformers model on these articles, in the notebook's prompt whatever the session's is: the same
    articles prune the same model."""
    from udaciheadline.data.prompts import completion_for, prompt_for
    from udaciheadline.engines.transformers import TransformersEngine

    # Those of one length are read together: what is filled up would count among the activations.
    texts = sorted(((prompt_for(a.short_description), completion_for(a.headline)) for a in articles), key=_length)
    prompts, completions = map(list, zip(*texts, strict=True))
    engine = TransformersEngine(model, tokenizer, max_new_tokens=1)
    return lambda: fmean(engine.texts.likelihood(prompts, completions))


def _length(text: tuple[str, str]) -> int:
    return len(text[0]) + len(text[1])


def decoder(model: Any) -> Any:
    """The part of a transformers model that has the `layers`. Raises Unsupported for a model that is none of the
    families that the compiled engine runs, whose layers are built otherwise."""
    from udaciheadline.engines.compiled import check

    check(model.config)
    return model.get_decoder()


def prune_with(prune: Prune, model: Any, tokenizer: Any, articles: Sequence[Article]) -> dict[str, float]:
    """Prunes a transformers model, in place, by what these articles say; adds the share of its weights that is gone to
    the technique's own figures. Raises Unsupported."""
    before = model.num_parameters()
    details = prune(model, headline_loss(model, tokenizer, articles))
    return details | {"removed_share": 1 - model.num_parameters() / before}


def build(technique: str, prune: PruneBy, spec: EngineSpec) -> Engine:
    """The compiled engine on what is left of the main model.

    Raises Unsupported for a model that cannot be pruned, and UsageError where there is neither a checkpoint of it nor
    an article to prune it by, or the checkpoint is of another vocabulary than the model.
    """
    from udaciheadline.checkpoints import models
    from udaciheadline.engines.compiled import check

    tokenizer = models.load_tokenizer(spec.model)
    if ready := spec.pruned.get(technique):
        if models.load_tokenizer(ready).get_vocab() != tokenizer.get_vocab():
            raise UsageError(
                f"--pruned-model {technique}={ready}: its vocabulary is not that of --model {spec.model}: name a "
                "checkpoint that was made from it"
            )
        return build_engine(spec, models.load_model(ready, device=spec.device, dtype=spec.dtype), tokenizer)
    if spec.model.startswith(models.SHAPE):
        raise Unsupported(
            "it is a grown model, most of whose layers and channels add exactly zero: removing those would look free"
        )
    check(models.load_config(spec.model))
    if not spec.calibration:
        raise UsageError(
            f"--technique {technique}: there is no pruned checkpoint of --model {spec.model}: make one with `python -m "
            f"udaciheadline.train --prune`, and name it with --pruned-model {technique}=FOLDER"
        )
    model = models.load_model(spec.model, device=spec.device, dtype=spec.dtype)
    details = prune(model, tokenizer, spec.calibration[:ARTICLES])
    return build_engine(spec, model, tokenizer, details=details)
