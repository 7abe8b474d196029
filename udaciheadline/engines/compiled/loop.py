"""Our own greedy decode loop: a token costs what the hardware needs for it, not what Python and launches need.

transformers' `generate` spends most of a small batch's time between kernels: Python decides what comes next, launches
some ten kernels a layer, and looks after every token whether the text has ended. Here

* a **step** (forward pass, argmax, token and position moved on) is one launch over tensors that stay where they are: a
  CUDA graph of few fused kernels (`graphs.py`, `kernels.py`). On a CPU one call of our own C++ reads a lone prompt, and
  one makes all of its steps (`rows.py`, `cpu/`);
* the host looks at a step's tokens while the next step is already running (CUDA), so that the device never waits for
  it. A text that has ended is noticed one step late; that step's token is thrown away, its time is in the figures;
* a **job** of many texts flows through a fixed number of rows, longest prompts first, so that prompts read together
  need little padding. A row whose text has ended takes the next prompt; when none is left, the rows close ranks.

On several ranks the same loop runs on each, and decides the same everywhere, since all see the same tokens: each has a
part of every layer (`ranks.py`, `peers.py`), or some layers and several micro-batches in flight (`stages.py`).

It does not help where a step is long anyway: large batches of a large model are bound by arithmetic, and only fused
kernels and the flow (no row works for a text that has ended) are left to win there.
"""

import gc
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import distributed

from udaciheadline.checkpoints.division import Share, Stage
from udaciheadline.engines.codec import Limit
from udaciheadline.engines.compiled import native, packed
from udaciheadline.engines.compiled.drafts import MOST_DRAFTS, SPARE, Drafter
from udaciheadline.engines.compiled.families import MAX_LENGTH
from udaciheadline.engines.compiled.graphs import PROMPT_BUCKET, GraphedRow, GraphedRows
from udaciheadline.engines.compiled.llama import Llama
from udaciheadline.engines.compiled.peers import Peers, can_reach_each_other
from udaciheadline.engines.compiled.rows import PackedRow, Rows, Text, Tokens
from udaciheadline.engines.compiled.speculation import DraftedRow, Written, best_k, drafted_row
from udaciheadline.engines.compiled.stages import Line, StageRows
from udaciheadline.engines.compiled.weights import count
from udaciheadline.engines.device import now
from udaciheadline.engines.texts import Ending, Texts, fitting
from udaciheadline.records import BuildInfo, Generation, UsageError

SLOTS = {"one": 128, "many": 32}  # a cache's length is a multiple: few graphs are captured, little is padded
PREFILL_TOKENS = {"cpu": 2048, "cuda": 16384}  # of prompts read together: enough to keep the device busy
PIPELINED_SHARE = 4  # of them for a stage: as long as it reads the first group, those behind it have nothing to do
MICRO_BATCHES = 1  # in flight for each stage of a pipeline
FREE_SHARE = 0.125  # of the rows, at which new prompts are read, or the others close ranks: neither is free
THREAD_BYTES = 8 * 2**20  # weights a step must read for a second thread on a CPU to pay: it has to be woken first


class CompiledEngine:
    """Greedy headlines from a transformers Llama, or another of `families.FAMILIES`, whose weights it takes over
    (`source` is of no use afterwards).

    `weights` names the kind that the matrices are quantised to (`weights.KINDS`; None: they stay as they are). With
    `alone`, a single prompt is what it is for: rows for it are made at once, and on a CPU weights are packed for our
    own C++. Otherwise they are made when the first prompt comes, and on a CPU weights are packed for jobs. `details`
    are the technique's own figures, passed through to the report. Of several ranks, source is the model of this one's
    `stage` or `share`. With a `drafter`, a single prompt's tokens are drafted (`speculation.py`), as many at a time as
    is best for the prompts in `samples`. Raises Unsupported for a model of another family, and UsageError where
    compiling fails.
    """

    def __init__(
        self,
        source: Any,
        tokenizer: Any,
        *,
        max_new_tokens: int,
        stop: str = "newline",
        alone: bool = True,
        details: dict[str, float] | None = None,
        stage: Stage | None = None,
        share: Share | None = None,
        weights: str | None = None,
        drafter: Drafter | None = None,
        samples: Sequence[str] = (),
    ) -> None:
        self._max_new_tokens = max_new_tokens
        self._ending = Ending(source, tokenizer, stop)
        parameters = share.parameters if share else source.num_parameters()
        self._model = Llama(source, MAX_LENGTH + (SPARE if drafter else 0), stage, share, weights)
        self._drafter, self._drafts = drafter, MOST_DRAFTS
        self._line = Line() if stage else None
        own = Limit(MAX_LENGTH, "the compiled engine takes")
        self.texts = Texts(
            tokenizer,
            partial(self._line.logits, self._model) if self._line else self._model.as_written,
            self._model.device,
            stop=stop,
            limit=min(Limit.of(source), own, *(drafter.limits if drafter else ()), key=lambda limit: limit.tokens),
            max_new_tokens=max_new_tokens,
        )
        self._ranks = distributed.get_world_size() if stage else self._model.ranks.count
        self._device = self._model.device.type
        self._lag = 1 if self._device == "cuda" else 0  # steps that are launched before an earlier one is looked at
        self._alone = alone and self._ranks == 1  # what goes between ranks cannot be part of our C++
        self._peers: Peers | None = None
        if self._device == "cuda":
            from udaciheadline.engines.compiled import (  # they need Triton, which a CPU build of torch lacks
                kernels,
                step,
            )

            kernels.check(self._model.head_dim)
            self._model.compile_layers()
            torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a plan for each new length of a prompt
            if self._model.ranks.count > 1 and can_reach_each_other():
                self._peers = Peers(step.inbox_words(self._model), self._model.device)
        self._rows: dict[str, list[Rows]] = {}
        self._threads = torch.get_num_threads()
        pass_bytes = sum(weight.nbytes for weight in self._model.read_once_a_pass())
        if self._device == "cpu":
            whole = weights is None and self._model.dtype in packed.KINDS
            self._model.pack(weights in packed.QUANTISED or (self._alone and whole))
            native.trim()
        layer_parameters = count(self._model.layers)  # type: ignore[arg-type]
        elsewhere = self._model.stage.of - len(self._model.layers)
        self.info = BuildInfo(
            parameters=parameters + elsewhere * layer_parameters // len(self._model.layers),
            weights_bytes=sum(weight.nbytes for weight in self._model.parameters()),
            pass_bytes=self._line.total(pass_bytes, self._model.device) if self._line else pass_bytes,
            layer_parameters=layer_parameters,
            head_parameters=self._model.head.numel() if self._model.stage.last else 0,
            details=(details or {}) | self._ending.details(),
        )
        self._threads_alone = max(1, min(self._threads, pass_bytes // THREAD_BYTES))
        try:
            if drafter is not None:
                self.info = replace(self.info, **self._with_drafts(drafter, samples))
            if alone:
                self.generate(["A first headline makes rows and graphs: building takes that time, no article does."])
        except torch._dynamo.exc.BackendCompilerFailed as error:
            inner = error.inner_exception
            reason = (str(inner).strip() or type(inner).__name__).splitlines()[0]
            raise UsageError(
                f"torch.compile failed ({reason}): it needs a C compiler and the headers of Python (python3-dev)"
            ) from error

    @torch.no_grad()
    def _with_drafts(self, drafter: Drafter, samples: Sequence[str]) -> dict[str, Any]:
        """Chooses how many tokens are drafted at a time: what `info` is to say then."""
        prompts = self.texts.encode(samples)
        made = self.generate_from(prompts)
        self._drop("many")
        runs = [drafter.runs([*p, *g.token_ids], len(p)) for p, g in zip(prompts, made, strict=True)]
        (row,) = self._rows_for([Text(prompt) for prompt in prompts], 1)
        assert isinstance(row, DraftedRow)
        choice = best_k(runs, {k: row.seconds(k) for k in range(MOST_DRAFTS + 1)})
        self._drafts = choice.k
        info, details = self.info, self.info.details | choice.details()
        if not choice.k:
            self._drafter = None
            del row  # with its graphs, and the draft: what is dropped must be known to nobody
            self._drop("one")
            return {"details": details}
        row.use(choice.k)
        return {
            "parameters": info.parameters + sum(map(count, drafter.models)),
            "weights_bytes": info.weights_bytes + sum(w.nbytes for model in drafter.models for w in model.parameters()),
            "pass_bytes": None,
            "details": details,
        }

    def generate(self, prompts: list[str], batch_size: int | None = None) -> list[Generation]:
        """Greedy headlines, at most `batch_size` in flight at a time (default: all); tokenisation is not timed.

        Where so many do not fit in memory, half as many are tried: `Generation.batch_size` says how many it were.
        Raises UsageError for a text longer than MAX_LENGTH tokens, or than the model has positions for.
        """
        return self.texts.with_headlines(self.generate_from(self.texts.encode(prompts), batch_size))

    @torch.no_grad()
    def generate_from(self, prompts: list[list[int]], batch_size: int | None = None) -> list[Generation]:
        """The same from prompts in tokens, none of them too long, without the headlines' texts."""
        if not prompts:
            return []

        def job(size: int) -> tuple[list[Text], float, float]:
            texts = [Text(ids) for ids in prompts]
            return texts, *self._work(texts, size)

        size = min(batch_size or len(prompts), len(prompts))
        size, (texts, start, seconds) = fitting(size, job, self._ranks)
        return [
            Generation(
                headline="",
                token_ids=tuple(text.new),
                seconds=seconds,
                first_token_seconds=text.first_token_at - start,
                batch_size=size,
                prompt_tokens=len(text.prompt),
                drafted=text.drafted,
                accepted=sum(text.accepted_at),
                accepted_at=tuple(text.accepted_at),
            )
            for text in texts
        ]

    def shape(self, prompt: str) -> int:
        """On a GPU the graph that reads it, or its length where none does."""
        if self._device == "cpu":
            return 0
        graphs = self._ranks == 1 or self._peers or self._line
        return -(-len(self.texts.encode([prompt])[0]) // (PROMPT_BUCKET if graphs else 1))

    def close(self) -> None:
        """Drops the model."""
        del self._model, self._drafter, self._rows, self.texts

    def _work(self, texts: list[Text], size: int) -> tuple[float, float]:
        """Makes the headlines, `size` texts at a time: when that began, and the seconds it took."""
        rows = self._rows_for(texts, size)
        start = now(self._device)
        waiting = deque(sorted(texts, key=lambda text: len(text.prompt), reverse=True))
        flows = [self._flow(micro_batch, waiting) for micro_batch in rows]
        while flows:  # each launches something in turn
            flows = [flow for flow in flows if next(flow, False)]
        return start, now(self._device) - start

    def _drop(self, kind: str) -> None:
        """Frees rows, before others are made. They and their graphs refer to each other."""
        if self._rows.pop(kind, None) is not None:
            gc.collect()

    def _rows_for(self, texts: list[Text], size: int) -> list[Rows]:
        """`size` rows, long enough for these texts: the last ones where they are, new ones otherwise. Those of a
        pipeline are divided into micro-batches."""
        needed = max(len(text.prompt) for text in texts) + self._max_new_tokens
        if self._device == "cpu":
            torch.set_num_threads(self._threads_alone if size == 1 else self._threads)
        kind = "one" if size == 1 else "many"
        parts = min(size, MICRO_BATCHES * self._ranks) if self._line else 1
        count = -(-size // parts)
        rows = self._rows.get(kind)
        if rows is None or (len(rows), rows[0].count) != (parts, count) or rows[0].slots < needed:
            del rows
            self._drop("many")
            self._drop(kind)
            slots = -(-needed // SLOTS[kind]) * SLOTS[kind]
            self._rows[kind] = rows = [self._new_rows(count, slots, number) for number in range(parts)]
        return rows

    def _new_rows(self, count: int, slots: int, number: int) -> Rows:
        if self._line is not None:
            return StageRows(self._model, count, slots, self._line, number)
        if count == 1 and self._drafter:
            return drafted_row(self._model, slots, self._drafter, self._drafts)
        if self._device == "cuda":
            if count == 1 and (self._ranks == 1 or self._peers):
                return GraphedRow(self._model, slots, self._peers)
            return GraphedRows(self._model, count, slots)
        if count == 1 and self._alone and isinstance(self._model.head, packed.Packed):
            return PackedRow(self._model, slots, self._ending, self._max_new_tokens)
        return Rows(self._model, count, slots)

    def _flow(self, rows: Rows, waiting: deque[Text]) -> Iterator[bool]:
        """Takes texts that wait through the rows, each to the end of its headline; true after everything launched.

        What was launched is not looked at before the next turn, so that other rows have theirs first.
        """
        flying: list[Text | None] = [None] * rows.count  # the text of each row
        made: deque[tuple[Tokens, list[Text | None]]] = deque()  # what was launched and not looked at yet
        while True:
            free = [row for row, text in enumerate(flying) if text is None]
            many_free = len(free) >= FREE_SHARE * len(flying)
            if waiting and many_free:
                for group in self._groups(waiting, free):
                    for text in group:
                        flying[text.row] = text
                        text.asked = 1
                    made.append((rows.prefill([t.prompt for t in group], [t.row for t in group]), [*group]))
                    yield True
            elif len(free) == len(flying):
                for tokens, _ in made:  # launched for texts that had ended: they are on their way all the same
                    tokens.arrive()
                return
            elif any(text and text.asked < self._max_new_tokens for text in flying):
                if many_free:
                    flying = self._close_ranks(rows, flying)
                made.append((rows.advance(len(flying)), flying[:]))
                for flown in flying:
                    if flown:
                        flown.asked += 1
                yield True
            else:  # all that may be needed is launched
                self._look(*made.popleft(), flying)
            while made and (len(made) > self._lag or made[-1][0].awaited):
                self._look(*made.popleft(), flying)

    def _groups(self, waiting: deque[Text], free: list[int]) -> list[list[Text]]:
        """Gives free rows to the texts that wait, in groups that are read together."""
        groups: list[list[Text]] = []
        most = PREFILL_TOKENS[self._device] // (PIPELINED_SHARE if self._line else 1)
        for row in free[: len(waiting)]:
            text = waiting.popleft()
            text.row = row
            if not groups or (len(groups[-1]) + 1) * len(groups[-1][0].prompt) > most:
                groups.append([])
            groups[-1].append(text)
        return groups

    def _close_ranks(self, rows: Rows, flying: list[Text | None]) -> list[Text | None]:
        """Moves the texts in flight to the first rows, where that makes a step smaller."""
        kept = [text for text in flying if text is not None]
        size = rows.fitting(len(kept))
        if size == len(flying):
            return flying
        rows.close_ranks([text.row for text in kept])
        for row, text in enumerate(kept):
            text.row = row
        return [*kept, *[None] * (size - len(kept))]

    def _look(self, tokens: Tokens, texts: list[Text | None], flying: list[Text | None]) -> None:
        """Hands out the tokens of a step to the texts that were in its rows; a text that has ended leaves its row."""
        values = tokens.read()
        now = time.perf_counter()
        for text, new in zip(texts, values, strict=True):
            if text is None or text.done:
                continue
            if not text.new:
                text.first_token_at = now
            before = len(text.new)
            for token in new:
                if token < 0:  # drafted, and not written
                    break
                text.new.append(token)
                if self._ending.has_come(text.new) or len(text.new) == self._max_new_tokens:
                    text.done = True
                    flying[text.row] = None
                    break
            if isinstance(tokens, Written):
                text.count(new, len(text.new) - before)
                text.asked += len(text.new) - before - 1
