"""A profile as text: what the stages of a pipeline worked on at the same time, and where the time of each rank went."""

from collections.abc import Sequence
from pathlib import Path

from udaciheadline.records import MICRO_BATCH, Span

WIDTH = 100


def timeline(ranks: Sequence[Sequence[Span]], width: int = WIDTH) -> str:
    """A line a rank: the number of the micro-batch that it worked on (its last digit), a dot where on none."""
    spans = [span for rank in ranks for span in rank]
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    moment = (last - first) / width
    lines = [f"{1000 * (last - first):.1f} ms, {1000 * moment:.2f} ms a character, the number is the micro-batch's:"]
    for number, rank in enumerate(ranks):
        line = ["."] * width
        for span in rank:
            for i in range(int((span.start - first) / moment), min(int((span.end - first) / moment) + 1, width)):
                line[i] = span.name.removeprefix(MICRO_BATCH)[-1]
        lines.append(f"rank {number}  {''.join(line)}")
    return "\n".join(lines)


def write_profile(path: Path, ranks: Sequence[tuple[str, Sequence[Span]]], *, one_clock: bool) -> None:
    """Writes the table of operators of each rank and, where they are stages that share `one_clock`, their timeline: the
    clocks of two machines differ by more than a stage takes."""
    tables, spans = zip(*ranks, strict=True)
    path.write_text("\n\n".join([timeline(spans), *tables] if one_clock and all(spans) else tables), "utf-8")
