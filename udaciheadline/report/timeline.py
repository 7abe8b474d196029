"""A profile as text: what the stages of a pipeline worked on at the same time, and where the time of each rank went."""

from collections.abc import Sequence
from pathlib import Path

from udaciheadline.records import MICRO_BATCH, Span, Timeline

WIDTH = 100


def timeline(ranks: Sequence[Sequence[Span]], width: int = WIDTH) -> Timeline:
    """What each rank worked on in `width` equal moments, from the first span's start to the last one's end."""
    spans = [span for rank in ranks for span in rank]
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    moment = (last - first) / width
    lines = []
    for rank in ranks:
        line = ["."] * width
        for span in rank:
            for i in range(int((span.start - first) / moment), min(int((span.end - first) / moment) + 1, width)):
                line[i] = span.name.removeprefix(MICRO_BATCH)[-1]
        lines.append("".join(line))
    return Timeline(last - first, tuple(lines))


def text(found: Timeline) -> str:
    """A line a rank: the number of the micro-batch that it worked on (its last digit), a dot where on none."""
    milliseconds = 1000 * found.seconds
    scale = f"{milliseconds:.1f} ms, {milliseconds / len(found.ranks[0]):.2f} ms a character"
    lines = (f"rank {number}  {rank}" for number, rank in enumerate(found.ranks))
    return "\n".join([f"{scale}, the number is the micro-batch's:", *lines])


def write_profile(path: Path, ranks: Sequence[tuple[str, Sequence[Span]]], *, one_clock: bool) -> Timeline | None:
    """Writes the table of operators of each rank and, where they are stages that share `one_clock`, their timeline,
    which it returns: the clocks of two machines differ by more than a stage takes."""
    tables, spans = zip(*ranks, strict=True)
    found = timeline(spans) if one_clock and all(spans) else None
    path.write_text("\n\n".join([text(found), *tables] if found else tables), "utf-8")
    return found
