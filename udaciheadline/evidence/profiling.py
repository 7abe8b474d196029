"""Where the time of some headlines goes, by torch.profiler, whose own cost is in the time: what ranks cost each other,
and when a stage worked on which micro-batch."""

import bisect
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

from udaciheadline.records import MICRO_BATCH, Span

# How the names of events begin: what goes on beside other work, and what stops it.
TALK = ("gloo:", "nccl")
BLOCKING = ("add_parts_kernel", "agree_kernel")
HEADLINES = "udaciheadline: headlines"


def profiled(jobs: Sequence[Callable[[], object]], meet: Callable[[], None], device: str) -> Any:
    """The profiler (torch.profiler.profile) of these jobs; ranks `meet` before each of them."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for job in jobs:
            meet()
            with record_function(HEADLINES):
                job()
    return profiler


def communication_share(profiler: Any, device: str) -> float:
    """The share of the jobs' time in which this rank did nothing but talk to others or wait for them."""
    jobs = [span for span in _spans(profiler, "cpu") if span.name == HEADLINES]
    talk: list[Span] = []
    blocking: list[Span] = []
    work: list[Span] = []
    for span in _spans(profiler, device):
        if not any(job.start <= span.start and span.end <= job.end for job in jobs):
            continue
        if span.name.startswith(BLOCKING):
            blocking.append(span)
        elif span.name.startswith(TALK):
            talk.append(span)
        elif span.name.startswith(("aten::", MICRO_BATCH)) or (device == "cuda" and span.name != HEADLINES):
            work.append(span)
    return waiting_seconds(talk, blocking, work) / sum(job.end - job.start for job in jobs)


def micro_batches(profiler: Any, device: str) -> list[Span]:
    """When this rank worked on which micro-batch."""
    return [span for span in _spans(profiler, device) if span.name.startswith(MICRO_BATCH)]


def _spans(profiler: Any, device: str) -> list[Span]:
    """What happened on `device`, on the clock that all processes of a machine share: as it was recorded, since the
    profiler's own list of events takes many times as long to make as the headlines took."""
    return [
        Span(event.name(), event.start_ns() / 1e9, event.end_ns() / 1e9)
        for event in profiler.profiler.kineto_results.events()
        if event.device_type().name.lower() == device
    ]


def waiting_seconds(talk: Sequence[Span], blocking: Sequence[Span], work: Sequence[Span]) -> float:
    """Seconds in which nothing but `talk` or `blocking` was going on: sending to other ranks, or waiting for them.

    Talk hides behind whatever work goes on meanwhile. What is blocking was started ahead of the end of the work before
    it, which does not count; the work after it is started ahead as well, but gets nowhere before its end.
    """
    began = sorted(work, key=lambda span: span.start)
    starts = [span.start for span in began]
    ends = list(accumulate((span.end for span in began), max))
    waiting = []
    for span in blocking:
        before = bisect.bisect_left(starts, span.start)
        waiting.append((max(span.start, ends[before - 1] if before else span.start), span.end))
    busy = _joined((span.start, span.end) for span in work)
    for start, end in _joined((span.start, span.end) for span in talk):
        for busy_start, busy_end in busy[bisect.bisect_left(busy, start, key=lambda interval: interval[1]) :]:
            if busy_start >= end:
                break
            waiting.append((start, busy_start))
            start = busy_end
        waiting.append((start, end))
    return sum(end - start for start, end in _joined(waiting))


def _joined(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same times as intervals that do not meet, in order; those that end before they begin are none."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(interval for interval in intervals if interval[0] < interval[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
