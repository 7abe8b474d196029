"""The engine that a user has today: transformers' `generate`, greedy.

At batch 1 its time is mostly Python and kernel launches, a fixed cost for each forward pass and layer, so it shows how
a technique does on *this* program and not what the technique could do on the hardware. Fewer passes or fewer layers
help here; cheaper passes mostly do not.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, cast

import torch
from packaging.version import Version
from transformers import BatchEncoding, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StaticCache
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from udaciheadline.checkpoints.division import local
from udaciheadline.engines.codec import Limit
from udaciheadline.engines.device import now
from udaciheadline.engines.texts import Ending, Texts, fitting, padded
from udaciheadline.records import BuildInfo, Generation

STATIC_SLOTS = 128  # a static cache is as long as a multiple of this: each new length is compiled anew
# What `generate` calls the cache that it is given: transformers 5.24 has another name, and warns of the old one.
CACHE = "cache" if Version(version("transformers")) >= Version("5.24") else "past_key_values"


class _FirstTokenClock(BaseStreamer):
    """Notes when the first new token was there. `generate` hands a streamer the prompt and then each step's tokens,
    already copied to the host, so the clock needs no synchronisation of its own."""

    def __init__(self) -> None:
        self.first_token_at = 0.0
        self._calls = 0

    def put(self, value: torch.Tensor) -> None:
        self._calls += 1
        if self._calls == 2:
            self.first_token_at = time.perf_counter()

    def end(self) -> None:
        pass


class _LineBreak(StoppingCriteria):
    """Ends a row at the first line break that comes with or after text, as `Ending` says, without asking the device.

    `start` is the length of the prompts, padded.
    """

    def __init__(self, ending: Ending, vocabulary: int, device: torch.device) -> None:
        self.start = 0
        _, self._breaks, self._blanks = (table.to(device) for table in ending.tables(vocabulary))

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        new = input_ids[:, self.start :]
        has_text = (~self._blanks[new]).cummax(1).values
        return (self._breaks[new] & has_text).any(1)


class _PassCounter:
    """Counts the forward passes of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.count = 0
        model.register_forward_hook(self._on_forward)

    def _on_forward(self, *_: object) -> None:
        self.count += 1


def _weights_bytes(model: torch.nn.Module) -> int:
    """Bytes of this rank's parameters and buffers, and of the scales that bitsandbytes hangs on a parameter."""
    total = sum(local(tensor).nbytes for tensor in (*model.parameters(), *model.buffers()))
    for parameter in model.parameters():
        if (scales := getattr(parameter, "SCB", None)) is not None:  # int8: one a row
            total += scales.nbytes
        if (state := getattr(parameter, "quant_state", None)) is not None:  # 4 bits: one a block
            total += state.absmax.nbytes
    return total


class TransformersEngine:
    """`model.generate` on batches of prompts.

    `draft` is a smaller model with the same tokenizer that proposes `draft_tokens` tokens at a time (batches of one
    only). With `static_cache` the cache has a fixed length, which lets transformers compile the decode step on CUDA.
    `details` are the technique's own figures, passed through to the report.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        stop: str = "newline",
        use_cache: bool = True,
        static_cache: bool = False,
        draft: PreTrainedModel | None = None,
        draft_tokens: int = 0,
        details: dict[str, float] | None = None,
    ) -> None:
        self._model, self._tokenizer, self._draft = model, tokenizer, draft
        self._max_new_tokens = max_new_tokens
        self._caches: dict[int, Any] | None = {} if static_cache else None  # by rows
        self._generate = cast(Callable[..., torch.Tensor], model.generate)
        self._ending = Ending(model, tokenizer, stop)
        # A configuration of our own: a checkpoint may bring sampling, penalties or a length that no row should have.
        model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            use_cache=use_cache,
            eos_token_id=sorted(self._ending.eos) or None,
            pad_token_id=tokenizer.pad_token_id or 0,
        )
        self._line_break = (
            _LineBreak(self._ending, model.config.get_text_config().vocab_size, model.device)
            if self._ending.breaks
            else None
        )
        ends: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
        ends[1] = ends[0] if ends[1] is None else ends[1]  # a head that a model does not show counts as tied
        apart = 0 if ends[0].weight is ends[1].weight else 1
        embedding, head = (local(module.weight) for module in ends)
        is_split = any(hasattr(parameter, "to_local") for parameter in model.parameters())
        self._ranks = torch.distributed.get_world_size() if is_split else 1
        # Of weights in 4 bits, transformers counts the weights and not the bytes that they are packed in.
        own = sum(local(p).numel() for p in model.parameters()) if is_split else model.num_parameters()
        models = [model]
        if draft is not None:
            models.append(draft)
            # A fixed number of draft tokens: the adaptive schedules carry over from one article to the next, and
            # depend on whether scikit-learn happens to be installed.
            draft.generation_config = GenerationConfig(
                do_sample=False,
                num_assistant_tokens=draft_tokens,
                num_assistant_tokens_schedule="constant",
                assistant_confidence_threshold=0.0,
                pad_token_id=tokenizer.pad_token_id or 0,
            )
            self._draft_passes = _PassCounter(draft)
            self._target_passes = _PassCounter(model)
        self.texts = Texts(
            tokenizer,
            self._logits,
            model.device,
            stop=stop,
            limit=Limit.of(*models),
            max_new_tokens=max_new_tokens,
        )
        self.info = BuildInfo(
            parameters=sum(m.num_parameters() for m in models),
            weights_bytes=sum(_weights_bytes(m) for m in models),
            pass_bytes=None if draft is not None else _weights_bytes(model) - apart * embedding.nbytes,
            layer_parameters=own - head.numel() - apart * embedding.numel(),
            head_parameters=head.numel(),
            details=(details or {}) | self._ending.details(),
        )

    def generate(self, prompts: list[str], batch_size: int | None = None) -> list[Generation]:
        """Greedy headlines, `batch_size` prompts at a time (default: all at once), longest prompts first, so that
        little is padded; tokenisation is outside the time, as in the notebook. Where so many do not fit in memory, half
        as many are tried: `Generation.batch_size` says how many it were. Raises UsageError for a prompt that is too
        long for the model."""
        return self.texts.with_headlines(self.generate_from(self.texts.encode(prompts), batch_size))

    def generate_from(self, prompts: list[list[int]], batch_size: int | None = None) -> list[Generation]:
        """The same from prompts in tokens, none of them too long, without the headlines' texts."""
        if not prompts:
            return []
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)

        def job(size: int) -> tuple[dict[int, Generation], float]:
            made: dict[int, Generation] = {}
            seconds = 0.0
            for start in range(0, len(order), size):
                chosen = order[start : start + size]
                batch = self._generate_batch([prompts[i] for i in chosen])
                for i, generation in zip(chosen, batch, strict=True):
                    made[i] = replace(generation, first_token_seconds=seconds + generation.first_token_seconds)
                seconds += batch[0].seconds
            return made, seconds

        size, (made, seconds) = fitting(min(batch_size or len(prompts), len(prompts)), job, self._ranks)
        return [replace(made[i], seconds=seconds, batch_size=size) for i in range(len(prompts))]

    def _generate_batch(self, prompts: list[list[int]]) -> list[Generation]:
        inputs = self._inputs(prompts)
        device = self._model.device.type
        clock = _FirstTokenClock()
        if self._draft is not None:
            self._draft_passes.count = self._target_passes.count = 0
        cache = self._empty_cache(*inputs["input_ids"].shape) if self._caches is not None else None
        criteria = StoppingCriteriaList()
        if self._line_break is not None:
            self._line_break.start = inputs["input_ids"].shape[1]
            criteria.append(self._line_break)
        start = now(device)
        with torch.no_grad():
            output = self._generate(
                **inputs,
                streamer=clock,
                stopping_criteria=criteria,
                assistant_model=self._draft,
                **{CACHE: cache},
            )
        seconds = now(device) - start
        rows = [self._ending.cut(row) for row in output[:, inputs["input_ids"].shape[1] :].tolist()]
        drafted = accepted = 0
        if self._draft is not None:
            # One draft pass proposes one token. One pass of the target yields the accepted tokens and one of its own.
            drafted = self._draft_passes.count
            accepted = len(rows[0]) - self._target_passes.count
        return [
            Generation(
                headline="",
                token_ids=tuple(row),
                seconds=seconds,
                first_token_seconds=clock.first_token_at - start,
                drafted=drafted,
                accepted=accepted,
                prompt_tokens=length,
            )
            for row, length in zip(rows, inputs["attention_mask"].sum(1).tolist(), strict=True)
        ]

    def shape(self, prompt: str) -> int:
        """On a GPU its length: a fresh engine was slow on every length that it had not met (0.76 times the speed of one
        that had), as if kernels were prepared for each."""
        return len(self.texts.encode([prompt])[0]) if self._model.device.type == "cuda" else 0

    def close(self) -> None:
        """Drops the models."""
        del self._model, self._draft, self._generate, self.texts

    def _logits(self, ids: torch.Tensor, given: Sequence[int]) -> torch.Tensor:
        return cast(torch.Tensor, self._model(input_ids=ids, use_cache=False).logits)

    def _inputs(self, prompts: list[list[int]]) -> BatchEncoding:
        """Prompts as tokens, filled up on the left, with the mask that hides what they are filled with."""
        ids = padded(prompts, self._tokenizer.pad_token_id, "left")
        mask = padded([[1] * len(prompt) for prompt in prompts], 0, "left")
        return BatchEncoding({"input_ids": ids, "attention_mask": mask}).to(self._model.device)

    def _empty_cache(self, rows: int, length: int) -> Any:
        """A static cache for this many texts. The last one is emptied and used again where it is large enough:
        `generate` would make a new one for each call, at another address than the compiled step knows."""
        assert self._caches is not None
        needed = length + self._max_new_tokens
        cache = self._caches.get(rows)
        if cache is None or cache.layers[0].max_cache_len < needed:
            slots = -(-needed // STATIC_SLOTS) * STATIC_SLOTS
            if rows > max(self._caches, default=0):  # a larger batch: those before it are over
                self._caches.clear()
            self._caches[rows] = cache = StaticCache(config=self._model.config, max_cache_len=slots)
        cache.reset()
        return cache
