"""Taking the launches away: a cache that does not grow, a step that is compiled, a loop that does not ask.

At batch 1 a token needs each weight once: Llama-3.2-1B in bfloat16 is 2.5 GB, half a millisecond for a GPU that reads
4.3 TB/s. `generate` takes nine: the rest is Python that decides what comes next, and hundreds of kernels
that are launched one by one, each of them over before the next one is there. On that program most other optimisations
look useless, because they make short what was never long.

* **static-cache**: transformers' own remedy. With a cache of fixed length all steps have the same shapes, so
  the forward pass can be compiled and captured once. The prompt, and the loop around the pass, stay as they were.
* **compiled**: our own loop on our own Llama (`engines/compiled/`). On a CPU prompt, step and loop are C++; on a GPU
  prompts are compiled between attention and attention, a step is a CUDA graph of five kernels a layer, and nothing
  waits for the host. A headline at a time, for the reader who waits for it.
* **compiled-batch**: the same program for a job of many articles, as many at a time as is fastest. A row of the batch
  whose headline has ended takes the next article.

It is not faster where a step is long by itself: large batches of large models are bound by arithmetic. And it costs
a build: on a GPU compiling and capturing take a quarter to half a minute, which a process that writes three headlines
never earns back. On a CPU the same holds with other words: not launches but the dispatch of small operations is what is
taken away, and the C++ is built with g++ in some seconds, once for a machine.
"""

from dataclasses import replace

from udaciheadline.engines import Engine, build_engine
from udaciheadline.records import EngineSpec
from udaciheadline.techniques._technique import REFERENCE, Technique
from udaciheadline.techniques.cache import build


def build_static_cache(spec: EngineSpec) -> Engine:
    """`generate` with a static cache, which compiles its decode step on CUDA."""
    return build(spec, static_cache=True)


def build_compiled(spec: EngineSpec) -> Engine:
    """The compiled engine on the main model, ready for one article at a time."""
    return _build(spec, alone=True)


def build_compiled_batch(spec: EngineSpec) -> Engine:
    """The compiled engine on the main model, which makes itself ready for a job when the first one comes."""
    return _build(spec, alone=False)


def _build(spec: EngineSpec, alone: bool) -> Engine:
    from udaciheadline.checkpoints.models import load_model, load_tokenizer

    model = load_model(spec.model, device=spec.device, dtype=spec.dtype)
    return build_engine(replace(spec, engine="compiled"), model, load_tokenizer(spec.model), alone=alone)


TECHNIQUES = (
    Technique(
        "static-cache",
        "Static Cache",
        22,
        build_static_cache,
        exact_to=REFERENCE,
        needs_cuda=True,
        arguments=("", 'cache_implementation="static"'),
    ),
    Technique("compiled", "Compiled", 24, build_compiled, exact_to=REFERENCE, batches=False, engines=("compiled",)),
    Technique(
        "compiled-batch",
        "Compiled, Offline",
        25,
        build_compiled_batch,
        exact_to=REFERENCE,
        offline=True,
        engines=("compiled",),
    ),
)
