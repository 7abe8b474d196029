"""The compiled engine with the embedded main model in float32 on the CPU, and its CUDA rows with graphs that are faked.

Nothing is compiled for a model: what a CPU runs of ours in C++ is built once for the machine.
"""

from types import SimpleNamespace

import pytest
import torch
from rows import tokens
from spies import spying

from udaciheadline.checkpoints.models import load_model
from udaciheadline.data import newswire
from udaciheadline.data.prompts import prompt_for
from udaciheadline.engines.compiled import CompiledEngine, graphs, speculation
from udaciheadline.engines.compiled import loop as module
from udaciheadline.engines.compiled import step as step_module
from udaciheadline.engines.compiled.graphs import GraphedRow, GraphedRows
from udaciheadline.engines.compiled.rows import Rows
from udaciheadline.engines.transformers import TransformersEngine

LENGTH = 25
BATCH = 64


def load(checkpoint):
    """A model of its own: an engine takes the weights over."""
    return load_model(str(checkpoint), device="cpu", dtype="float32")


@pytest.fixture(scope="package")
def prompts():
    """Of 400 evaluation articles."""
    return [prompt_for(article.short_description) for article in newswire.evaluation_articles()[:400]]


@pytest.fixture(scope="package")
def reference(main_checkpoint, tokenizer):
    return TransformersEngine(load(main_checkpoint), tokenizer, max_new_tokens=LENGTH)


@pytest.fixture(scope="package")
def expected(reference, prompts):
    """The tokens of all prompts, by transformers."""
    return tokens(reference.generate(prompts, batch_size=BATCH))


@pytest.fixture(scope="package")
def engine(main_checkpoint, tokenizer):
    """Ready for one prompt at a time."""
    return CompiledEngine(load(main_checkpoint), tokenizer, max_new_tokens=LENGTH)


@pytest.fixture(scope="package")
def one_by_one(engine, prompts):
    """The generations of all prompts, one call each."""
    return [engine.generate([prompt])[0] for prompt in prompts]


@pytest.fixture(scope="package")
def job(engine, prompts):
    """The generations of all prompts in one call, so many at a time that rows are used again and again."""
    return engine.generate(prompts, batch_size=BATCH)


@pytest.fixture
def build(main_checkpoint, tokenizer):
    """Makes an engine for jobs, or with `alone` for one prompt at a time."""

    def build(checkpoint=main_checkpoint, **options):
        options = {"max_new_tokens": LENGTH, "alone": False} | options
        return CompiledEngine(load(checkpoint), tokenizer, **options)

    return build


@pytest.fixture(scope="module")
def interpreted_at_once():
    """Triton's interpreter puts its own functions into the language at every call that a kernel makes, and looks
    through all of the language for that, half of its time. Here it does so once, until the module has ended."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    replace, replaced, scopes = interpreter._patch_lang, set(), []
    nothing = SimpleNamespace(restore=lambda: None)

    def once(function):
        if function.__module__ not in replaced:  # what a module sees of the language
            replaced.add(function.__module__)
            scopes.append(replace(function))
        return nothing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", once)
        yield
    for scope in reversed(scopes):
        scope.restore()


@pytest.fixture
def graphed(monkeypatch):
    """Rows are those of CUDA. A graph runs its function again, whose tensors stay where they are; the list returned
    holds the number of captures so far."""
    captures = []

    def capture(function, *_):
        captures.append(function)
        return function

    def step(model, cache, last, place, _peers=None):
        """What the kernels do (test_kernels.py)."""

        def call():
            last.copy_(model.decode(last, place, cache).argmax(-1))
            place.add_(1)

        return call

    def rows(model, count, slots):
        return GraphedRow(model, slots) if count == 1 else GraphedRows(model, count, slots)

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(step_module, "Step", step)
    for user in (graphs, speculation):
        monkeypatch.setattr(user, "GraphPool", lambda: None)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(module, "Rows", rows)
    monkeypatch.setattr(module, "PackedRow", lambda model, slots, *_: GraphedRow(model, slots))
    return captures


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the rows: the lengths of prompts that were read together, and the rows of each step."""
    noted = SimpleNamespace(read=[], steps=[])
    for kind in (Rows, GraphedRow, GraphedRows):
        monkeypatch.setattr(kind, "advance", spying(kind.advance, noted.steps))
    monkeypatch.setattr(Rows, "prefill", spying(Rows.prefill, noted.read, lambda prompts: [len(p) for p in prompts]))
    return noted
