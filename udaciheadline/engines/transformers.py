"""The engine that a user has today: transformers' `generate`, greedy.

At batch 1 its time is mostly Python and kernel launches, a fixed cost for each forward pass and layer, so it shows how
a technique does on *this* program and not what the technique could do on the hardware. Fewer passes or fewer layers
help here; cheaper passes mostly do not.
"""

import time
from collections.abc import Callable
from typing import cast

import torch
from transformers import BatchEncoding, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from udaciheadline import measure
from udaciheadline.prompts import completion_for, extract_headline
from udaciheadline.records import BuildInfo, Generation

LIKELIHOOD_BATCH = 8


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


class _PassCounter:
    """Counts the forward passes of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.count = 0
        model.register_forward_hook(self._on_forward)

    def _on_forward(self, *_: object) -> None:
        self.count += 1


def _weights_bytes(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers, and of the scales that bitsandbytes hangs on a parameter as attributes."""
    total = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    for parameter in model.parameters():
        if (scales := getattr(parameter, "SCB", None)) is not None:  # int8: one a row
            total += scales.nbytes
        if (state := getattr(parameter, "quant_state", None)) is not None:  # 4 bits: one a block
            total += state.absmax.nbytes
    return total


class TransformersEngine:
    """`model.generate` on batches of prompts.

    `draft` is a smaller model with the same tokenizer that proposes `draft_tokens` tokens at a time (batches of one
    only). `details` are the technique's own figures, passed through to the report.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        use_cache: bool = True,
        draft: PreTrainedModel | None = None,
        draft_tokens: int = 0,
        details: dict[str, float] | None = None,
    ) -> None:
        self._model, self._tokenizer, self._draft = model, tokenizer, draft
        self._generate = cast(Callable[..., torch.Tensor], model.generate)
        eos = model.generation_config.eos_token_id if model.generation_config else None
        eos = tokenizer.eos_token_id if eos is None else eos
        self._eos = set(eos) if isinstance(eos, list) else {eos}
        # A configuration of our own: a checkpoint may bring sampling, penalties or a length that no row should have.
        model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            use_cache=use_cache,
            eos_token_id=eos,
            pad_token_id=tokenizer.pad_token_id,
        )
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
                pad_token_id=tokenizer.pad_token_id,
            )
            self._draft_passes = _PassCounter(draft)
            self._target_passes = _PassCounter(model)
        self.info = BuildInfo(
            parameters=sum(m.num_parameters() for m in models),
            weights_bytes=sum(_weights_bytes(m) for m in models),
            details=details or {},
        )

    def generate(self, prompts: list[str]) -> list[Generation]:
        """Greedy headlines for a batch of prompts; tokenisation is outside the time, as in the notebook."""
        inputs = self._encode(prompts)
        device = self._model.device.type
        clock = _FirstTokenClock()
        if self._draft is not None:
            self._draft_passes.count = self._target_passes.count = 0
        start = measure.now(device)
        with torch.no_grad():
            output = self._generate(**inputs, streamer=clock, assistant_model=self._draft)
        seconds = measure.now(device) - start
        rows = [self._until_end(row) for row in output[:, inputs["input_ids"].shape[1] :].tolist()]
        drafted = accepted = 0
        if self._draft is not None:
            # One draft pass proposes one token. One pass of the target yields the accepted tokens and one of its own.
            drafted = self._draft_passes.count
            accepted = len(rows[0]) - self._target_passes.count
        return [
            Generation(
                headline=extract_headline(str(self._tokenizer.decode(row, skip_special_tokens=True))),
                token_ids=tuple(row),
                seconds=seconds,
                first_token_seconds=clock.first_token_at - start,
                drafted=drafted,
                accepted=accepted,
            )
            for row in rows
        ]

    def likelihood(self, prompts: list[str], headlines: list[str]) -> list[float]:
        """Mean negative log-likelihood, in nats per token, of each headline after its prompt (teacher-forced)."""
        pairs = [
            (
                self._tokenizer(prompt)["input_ids"],
                self._tokenizer(completion_for(headline), add_special_tokens=False)["input_ids"],
            )
            for prompt, headline in zip(prompts, headlines, strict=True)
        ]
        values: list[float] = []
        for start in range(0, len(pairs), LIKELIHOOD_BATCH):
            values += self._likelihood_of_batch(pairs[start : start + LIKELIHOOD_BATCH])
        return values

    def close(self) -> None:
        """Drops the models."""
        del self._model, self._draft, self._generate

    def _encode(self, prompts: list[str]) -> BatchEncoding:
        inputs = self._tokenizer(prompts, return_tensors="pt", padding=True)
        return BatchEncoding({name: inputs[name] for name in ("input_ids", "attention_mask")}).to(self._model.device)

    def _until_end(self, row: list[int]) -> list[int]:
        """The tokens up to and including the first end of sequence; what follows in a batch is padding."""
        for i, token in enumerate(row):
            if token in self._eos:
                return row[: i + 1]
        return row

    def _likelihood_of_batch(self, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
        length = max(len(prompt) + len(headline) for prompt, headline in pairs)
        # Padded on the right, so that positions need no correction: causal attention never looks there.
        ids = torch.full((len(pairs), length), self._tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, (prompt, headline) in enumerate(pairs):
            ids[row, : len(prompt) + len(headline)] = torch.tensor(prompt + headline)
            mask[row, : len(prompt) + len(headline)] = 1
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        with torch.no_grad():
            logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # (rows, length, vocab)
        values = []
        for row, (prompt, headline) in enumerate(pairs):
            first, last = len(prompt), len(prompt) + len(headline)
            predicted = logits[row, first - 1 : last - 1].float()  # position t predicts token t + 1
            values.append(torch.nn.functional.cross_entropy(predicted, ids[row, first:last]).item())
        return values
