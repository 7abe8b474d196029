"""Every layer split over several devices: each reads its part of the weights, at the same time.

A layer has two pairs of matrices. In each pair the first is split by rows (a rank makes its own heads, its own MLP
channels), the second by columns (it adds up what its heads and channels contribute), so that a rank needs nothing of
the others in between: one sum over the ranks after attention, one after the MLP. Embedding and head are split by
vocabulary; the best token is the best of the ranks' best (Megatron-LM, Shoeybi et al. 2019,
https://arxiv.org/abs/1909.08053).

It is faster where a token's time is that of reading weights: N devices read N times as fast, and two sums a layer of a
few kilobytes cost little over NVLink, if they are made by the kernels of the step themselves
(`engines/compiled/peers.py`). Two H100s write a headline 1.8 times as fast as one with Llama-3.1-8B's shape, 1.4 times
with Llama-3.2-1B's, where the sums weigh more (docs/performance.md). On `generate`, whose time at batch 1 is Python's,
two are slower than one (0.6 times): Python runs on every rank, and they wait for each other. It makes a model fit that
is too large for one device, whatever the speed. On a CPU, where the ranks share memory and cores, it can only show that
the tokens are the same.

The compiled engine deals out what does not divide, too (9 and 3 heads over two ranks: 6 and 2, 3 and 1), and is as fast
as the largest share; transformers splits evenly or not at all.

The notebook's row of this name placed whole layers on devices, which is something else.
"""

from udaciheadline.checkpoints.division import Share
from udaciheadline.engines import ENGINES, Engine, build_engine
from udaciheadline.records import EngineSpec
from udaciheadline.techniques._technique import REFERENCE, Technique


def build(spec: EngineSpec) -> Engine:
    """This rank's part of the main model, on the engine that was asked for."""
    from torch import distributed

    from udaciheadline.checkpoints.models import load_config, load_model, load_tokenizer
    from udaciheadline.engines.compiled import check

    tokenizer = load_tokenizer(spec.model)
    if spec.engine == "transformers":
        model = load_model(spec.model, device=spec.device, dtype=spec.dtype, ranks=spec.ranks)
        return build_engine(spec, model, tokenizer)
    config = load_config(spec.model)
    check(config)
    share = Share(config, distributed.get_rank(), spec.ranks)
    model = load_model(spec.model, device=spec.device, dtype=spec.dtype, share=share)
    return build_engine(spec, model, tokenizer, share=share)


TECHNIQUES = (
    Technique("tensor-parallel", "Tensor Parallel", 60, build, exact_to=REFERENCE, parallel=True, engines=ENGINES),
)
