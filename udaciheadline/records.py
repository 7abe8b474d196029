"""The types that everything passes on. Imports neither torch nor pytest; units are in the field names."""

import math
from dataclasses import dataclass, field


class UsageError(Exception):
    """Something the user gave cannot be used; the message is one sentence that names the thing and the mend."""


class Unsupported(Exception):
    """A technique cannot be used on this model or machine; the message is one sentence that says why."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval; NaN bounds where one article cannot give an interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Article:
    """One row of a dataset: the `headline` is the reference, `short_description` is what the model reads."""

    headline: str
    short_description: str
    category: str = ""
    authors: str = ""
    date: str = ""
    link: str = ""


@dataclass(frozen=True)
class EngineSpec:
    """What an engine is built from. `model`, `draft` and `target` are checkpoints as `checkpoints.models.resolve`
    returns them (no target: None); `device` is "cpu" or "cuda"; `dtype` a torch dtype's name, the same for every row;
    `engine` is "transformers" or "compiled", for techniques that exist on both; `ranks` are the processes, one device
    each, that a parallel technique is spread over; `stop` is where a headline ends, beside the model's own end of
    sequence (`data.prompts.STOPS`). `pruned` are checkpoints that stand ready for rows that would prune `model`, by the
    names of the techniques; `calibration` are articles that are not measured, for techniques that ask them what of a
    model matters (nothing where no such technique is wanted)."""

    model: str
    target: str | None
    draft: str
    device: str
    dtype: str
    max_new_tokens: int = 25
    engine: str = "transformers"
    ranks: int = 1
    stop: str = "newline"
    pruned: dict[str, str] = field(default_factory=dict)
    calibration: tuple[Article, ...] = ()


@dataclass(frozen=True)
class Generation:
    """What an engine made of one prompt.

    `token_ids` are the new tokens up to and including the one that ends the headline, `seconds` the device-synchronised
    time of the whole call (shared by all its prompts), `first_token_seconds` the part until the first new token was
    there. `drafted` and `accepted` count draft tokens where tokens are drafted, and `accepted_at` the accepted ones by
    their place in a draft (nothing: the engine cannot tell); `batch_size` is how many prompts were worked on at a time.
    """

    headline: str
    token_ids: tuple[int, ...]
    seconds: float
    first_token_seconds: float
    drafted: int = 0
    accepted: int = 0
    accepted_at: tuple[int, ...] = ()
    batch_size: int = 1
    prompt_tokens: int = 0


MICRO_BATCH = "micro-batch "
"""How the profiler calls what a stage of a pipeline does, before the micro-batch's number."""


@dataclass(frozen=True)
class Span:
    """Something that lasted: seconds on the machine's clock."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """What the stages of a pipeline worked on at the same time: `seconds` in as many equal moments as each rank's text
    in `ranks` has characters, the last digit of the micro-batch's number or a dot where on none."""

    seconds: float
    ranks: tuple[str, ...]


@dataclass(frozen=True)
class BuildInfo:
    """What a freshly built engine says of itself.

    `pass_bytes` is what one forward pass must read of the weights (None where a pass may give several tokens);
    every token is multiplied with `layer_parameters` of them, every new token with `head_parameters` too. `details`
    are a technique's own figures (sparsity, ...), and `no_end_token` where only its length ends a headline.
    """

    parameters: int
    weights_bytes: int
    pass_bytes: int | None = None
    layer_parameters: int = 0
    head_parameters: int = 0
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """Peaks since the last reset. Devices in order; the host's is of the process that runs the model (None: the
    kernel cannot tell)."""

    device_allocated_peak_bytes: tuple[int, ...]
    device_reserved_peak_bytes: tuple[int, ...]
    host_peak_bytes: int | None

    @property
    def peak_bytes(self) -> int | None:
        """What is allocated on all devices or, on a CPU, resident on the host."""
        return sum(self.device_allocated_peak_bytes) or self.host_peak_bytes


@dataclass(frozen=True)
class Energy:
    """What the devices of a row took while its engine alone wrote `headlines` in `seconds`, idle power included.

    `source` is "NVML" (the GPUs of the row) or "RAPL" (all processor packages); `slowed` is what kept clocks down then.
    """

    joules_per_headline: float
    headlines: int
    seconds: float
    source: str
    slowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What the device can do, measured: bytes a second to and from its memory, and floating-point operations a second
    in matrix products of the session's dtype."""

    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True)
class Measurement:
    """What the timed run of one technique amounts to: one article a round, times as in `Generation`.

    `speed_up` is the geometric mean over articles of the reference's seconds over the technique's; its interval is over
    the `launches`, fresh processes of both that the articles were divided over, or over the articles where there was
    one, with `statistics.ONE_PROCESS` for how two may differ. `limit_seconds` is what a headline would take if nothing
    but reading the weights once a new token took time. `prompt_tokens` are those of the shortest and of the longest
    prompt. `accepted_shares` are those of the drafts whose first, second and so on token was accepted, and with it
    those before (None: the engine does not say).
    """

    count: int
    average_seconds: float
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float
    p99_is_reliable: bool
    headlines_per_second: float
    new_tokens_per_second: float
    first_token_seconds: float
    new_tokens: int
    reference_new_tokens: int
    reference_average_seconds: float
    speed_up: Estimate
    drafted: int
    accepted: int
    acceptance_rate: float | None
    limit_seconds: float | None = None
    launches: int = 1
    prompt_tokens: tuple[int, int] | None = None
    accepted_shares: tuple[float, ...] | None = None

    @property
    def token_seconds(self) -> float:
        """Seconds a token behind the first one; NaN where there is none."""
        tokens = self.new_tokens - self.count
        return self.count * (self.average_seconds - self.first_token_seconds) / tokens if tokens else math.nan


@dataclass(frozen=True)
class Scores:
    """The quality of one row on so many `articles`: means with 95 % intervals, and paired differences to the reference.

    `rouge` is by kind, as F-measures in [0, 1]; `nll` is the mean negative log-likelihood of the true headlines, in
    nats per token. `rouge1_detectable_loss` is the loss that so many articles would find with 80 % power.
    `identical_share` counts headlines with the reference's tokens; the first differing token of the others is given by
    its earliest and its median position. Of a row that must repeat another one's tokens, `near_ties` counts the
    headlines that part from those where the two tokens are within `rounding_nats` of each other, which is what rounding
    moves (`engines.texts.rounding`), and `real_differences` all others that part. `job_identical_share` counts the
    timed headlines whose tokens an offline job writes too (None: it has none).
    """

    articles: int
    rouge: dict[str, Estimate]
    rouge_difference: dict[str, Estimate]
    rouge1_detectable_loss: float
    nll: Estimate
    nll_difference: Estimate
    identical_share: float
    first_difference_earliest: int | None
    first_difference_median: float | None
    near_ties: int | None = None
    real_differences: int | None = None
    rounding_nats: float | None = None
    job_identical_share: float | None = None


@dataclass(frozen=True)
class PerArticle:
    """What a row was measured by, article by article: all that a later session needs to compare itself with it.

    `log_ratios` are those of the reference's seconds over the technique's, in `launches` blocks of fresh processes
    (nothing of a row that has jobs only); `job_log_ratios` the same of whole jobs, one a fresh process. `rouge1` is NaN
    where ROUGE cannot see the true headline; `nll` is in nats a token. `seconds` are the technique's own, in the
    order of `log_ratios`. `headlines` are what it wrote (nothing in records of old); the articles themselves stand once
    in the folder of results, by the run's fingerprint. `rouge1`, `nll` and `headlines` go on behind the timed articles
    with those of `Record.job_scores`.
    """

    log_ratios: tuple[float, ...]
    launches: int
    rouge1: tuple[float, ...]
    nll: tuple[float, ...]
    job_log_ratios: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    headlines: tuple[str, ...] = ()


@dataclass(frozen=True)
class OtherCode:
    """What a row's own engine in the code that `--against` names did, in turn with it, article by article.

    `log_ratios` are those of its seconds over the row's, in the blocks of fresh processes that `PerArticle` has, and
    `job_log_ratios` those of jobs (of a row that has nothing else). `rouge1` is of what it wrote, beside `rouge1_now`
    of what the row did, and `nll` of the true headlines, in the order of the timed articles.
    """

    log_ratios: tuple[float, ...]
    job_log_ratios: tuple[float, ...]
    rouge1: tuple[float, ...]
    rouge1_now: tuple[float, ...]
    nll: tuple[float, ...]
    weights_bytes: int


@dataclass(frozen=True)
class Verdict:
    """What one gate says of one row: `status` is "pass", "fail", "inconclusive" or "not judged"."""

    gate: str
    status: str
    measured: float
    required: float
    message: str


@dataclass(frozen=True)
class Throughput:
    """All articles as one job, `batch_size` at a time: the median of `rounds` rounds.

    `refused_batch_size` is a larger one that did not fit in memory. `limit_per_second` is how many headlines there
    would be if nothing but the arithmetic of matrix products took time. `speed_up` is that
    over the reference's jobs, written in turn with these, each round in a fresh process of both (None: the rounds had
    one process, as those of a row that has a latency do). `times_over` holds how many times the rates of
    earlier rows that is, by their names.
    """

    batch_size: int
    rounds: int
    headlines_per_second: float
    new_tokens_per_second: float
    refused_batch_size: int | None = None
    limit_per_second: float | None = None
    times_over: dict[str, float] = field(default_factory=dict)
    speed_up: Estimate | None = None


@dataclass(frozen=True)
class BatchPoint:
    """A job with so many articles at a time, repeated to fill a batch where there are fewer: the median of `rounds`.

    `times_optimised` is the rate over that of the row that this one optimises, with as many at a time: measured in
    other minutes, so that it has no interval (None: that row has no such point).
    """

    batch_size: int
    rounds: int
    headlines_per_second: float
    new_tokens_per_second: float
    times_optimised: float | None = None


@dataclass(frozen=True)
class BatchCurve:
    """What more articles at a time give one row, by growing size; `job_batch_size` is how many its jobs took, as the
    session was asked or as is fastest (None: it has none). `left_out` has each size that was not measured, and why."""

    points: tuple[BatchPoint, ...]
    job_batch_size: int | None = None
    left_out: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Parallel:
    """What the ranks of a parallel technique have and do, in the order of the ranks.

    `peak_bytes` are allocated on each rank's device, or resident in its process on a CPU (None: the kernel cannot
    tell). `communication_share` is the part of the time in which a rank did nothing but send to other ranks or wait for
    them, one article at a time; `job_communication_share` the same for all articles as one job. `layers` are those of
    each stage, where whole layers are divided; `timeline` is what the stages did, where that was profiled.
    """

    backend: str
    weights_bytes: tuple[int, ...]
    peak_bytes: tuple[int | None, ...]
    communication_share: tuple[float, ...]
    job_communication_share: tuple[float, ...]
    layers: tuple[int, ...] | None = None
    timeline: Timeline | None = None


@dataclass(frozen=True)
class Record:
    """One technique's whole row. What was not reached is None.

    `status` is "ok", "skipped", or why the row broke off: "crash", "oom", "timeout", "error"; `reason` says it in one
    sentence. `speed_up_over` holds the paired speed-ups over other rows, by name: over those that answered `in_turn`
    with it (the row that it optimises, the one whose tokens it repeats and, of a parallel row, one rank), and over
    others by way of the reference, whose own shifts from row to row are not in their intervals (of an offline row by
    that of its jobs, over the row that it optimises). `not_compared` says of which row that should have answered in
    turn there is no such figure, and why. `scores` are those of the timed outputs, and `job_scores` those of more
    articles, written as offline jobs. `disturbances` are what else happened to its GPUs meanwhile.
    """

    run: str
    technique: str
    title: str
    status: str
    reason: str = ""
    engine: str = "transformers"
    build_seconds: float | None = None
    build: BuildInfo | None = None
    measurement: Measurement | None = None
    speed_up_over: dict[str, Estimate] = field(default_factory=dict)
    in_turn: tuple[str, ...] = ()
    not_compared: dict[str, str] = field(default_factory=dict)
    throughput: Throughput | None = None
    batch_curve: BatchCurve | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    parallel: Parallel | None = None
    scores: Scores | None = None
    job_scores: Scores | None = None
    per_article: PerArticle | None = None
    other_code: OtherCode | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    disturbances: tuple[str, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def open_gates(self) -> list[str]:
        """Those that neither passed nor failed."""
        return [verdict.gate for verdict in self.verdicts if verdict.status in ("inconclusive", "not judged")]

    @property
    def widest_scores(self) -> Scores | None:
        """Those of the most articles."""
        return self.job_scores or self.scores
