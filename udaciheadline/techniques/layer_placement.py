"""Whole layers on several GPUs, one after the other: transformers' `device_map="balanced"`.

accelerate spreads the layers so that each GPU holds about as many bytes, and moves the hidden states along. A text
passes the GPUs in turn, and so does a batch: while one GPU works, the others wait. **It is never faster than one GPU**
on which the model fits; it is how a model runs that does not fit. Two more things cost time: the hooks that move
tensors between layers, and the copies.

The notebook called this both tensor and pipeline parallelism. It is one process, and neither.
"""

from udaciheadline.engines import Engine
from udaciheadline.records import EngineSpec, Unsupported
from udaciheadline.techniques._technique import REFERENCE, Technique


def build(spec: EngineSpec) -> Engine:
    """The main model on all GPUs. Raises Unsupported where there is one."""
    import torch

    from udaciheadline.checkpoints.models import BALANCED, load_model, load_tokenizer
    from udaciheadline.engines.transformers import TransformersEngine

    if torch.cuda.device_count() < 2:
        raise Unsupported("it needs a second GPU")
    model = load_model(spec.model, device=BALANCED, dtype=spec.dtype)
    return TransformersEngine(model, load_tokenizer(spec.model), max_new_tokens=spec.max_new_tokens, stop=spec.stop)


TECHNIQUES = (
    Technique(
        "layer-placement",
        "Layer Placement",
        65,
        build,
        exact_to=REFERENCE,
        needs_cuda=True,
        arguments=('device_map="balanced"', ""),
        note="the GPUs work in turn, whatever the batch: it is for models that do not fit on one",
    ),
)
