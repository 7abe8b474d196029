"""How tokens come out of a model, behind one small interface: `Engine`.

Others use `build_engine` and `ENGINES`, or an engine itself: `transformers`, what a user has today, or `compiled`,
where launches and Python are gone. `device` is the clock, the memory and the limits of what they run on, `codec` the
way from text to tokens and back, without a model.
"""

from typing import Any

from udaciheadline.engines.interface import Engine
from udaciheadline.records import EngineSpec

__all__ = ["ENGINES", "Engine", "build_engine", "codec", "compiled", "device", "transformers"]

ENGINES = ("transformers", "compiled")


def build_engine(spec: EngineSpec, model: Any, tokenizer: Any, **options: Any) -> Engine:
    """The engine that `spec` names, on a transformers model that a technique has made ready; `options` are those of
    that engine beside what a spec has."""
    kind: Any
    if spec.engine == "compiled":
        from udaciheadline.engines.compiled import CompiledEngine as kind
    else:
        from udaciheadline.engines.transformers import TransformersEngine as kind
    engine: Engine = kind(model, tokenizer, max_new_tokens=spec.max_new_tokens, stop=spec.stop, **options)
    return engine
