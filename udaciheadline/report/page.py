"""The report of a run as files: one page (`report.html`) that needs neither network nor JavaScript, and the same as
Markdown (`report.md`) for a pull request or the summary of a job.

Both are made from records alone, of this run or any earlier one, by two templates and one set of facts. Jinja2 and
matplotlib (the extra `report`) are imported where a report is made.
"""

import datetime
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from udaciheadline.evidence import quality
from udaciheadline.evidence.statistics import ONE_PROCESS, mean
from udaciheadline.evidence.verdict import Budget, Decision, budget_of, decide
from udaciheadline.records import Article, Estimate, Record, UsageError
from udaciheadline.report import curves, figures, findings, headlines, verdict
from udaciheadline.report.figures import Figure
from udaciheadline.report.numbers import number
from udaciheadline.techniques import REFERENCE

PLACES = (
    "model",
    "target",
    "draft",
    "pruned",
    "calibration",
)  # where this machine has them: their names are among the settings
HTML, MARKDOWN = "report.html", "report.md"
NEEDED = ("jinja2", "matplotlib")
MARKS = {"deploy": "\N{CHECK MARK}", "undecided": "?", "reference": "\N{BULLET}", "not run": "\N{EN DASH}"}
MARKS |= dict.fromkeys(("excluded", "dominated", "not worth it", "slower"), "\N{MULTIPLICATION SIGN}")
"""A sign beside each word of `Standing.state`."""

READING = (
    f"A speed-up is a paired ratio: while a technique is measured, the reference ({REFERENCE}) and the row that it "
    "optimises are alive beside it and answer the same article, before or after it in turn. Machines drift by more "
    "than most techniques win; the ratio does not.",
    "The 95 % interval of a speed-up is over fresh processes of both, where a row had several, and else over the "
    f"articles, with {ONE_PROCESS - 1:.0%} for how two processes may differ.",
    "Memory is that of a process of the row's own: allocated on all GPUs or, on a CPU, resident with all libraries.",
    "ROUGE-1 is the share of words that a headline and the true one have in common (F-measure). NLL is how unlikely "
    "the true headline is to the model, in nats a token: it sees damage that no word shows yet. Both are compared "
    "article by article.",
    "The verdict is said of this model, these prompts and this device, and of no others: measure yours.",
)


@dataclass(frozen=True)
class Page:
    """All that the templates say. `command` and `python` deploy what the decision names (nothing where it names none,
    or where Python needs more than a few lines). `figures` come before the headlines and `hardware` after them;
    `skipped` holds technique, status and reason of every row that was not measured to its end."""

    title: str
    run: str
    decision: Decision
    asked: str
    command: str
    python: str
    figures: list[Figure]
    stories: headlines.Stories | None
    has_articles: bool
    copying: Estimate | None
    hardware: list[Figure]
    sections: list[findings.Section]
    skipped: list[tuple[str, str, str]]
    settings: list[tuple[str, str]]
    environment: list[tuple[str, str]]
    reading: tuple[str, ...] = READING
    reference: str = REFERENCE

    def mark(self, state: str) -> str:
        """The sign of a standing's state."""
        return MARKS.get(state, "")


def write(
    records: Sequence[Record], folder: Path, articles: Sequence[Article] | None = None, budget: Budget | None = None
) -> tuple[Path, Path]:
    """Writes `report.html` and `report.md` on one run to `folder`, which is made where it is missing; their paths.
    `articles` are those of the run, where their texts are known; the `budget` is that of its session, unless another
    one is given.

    Raises UsageError where the extra is not installed, OSError where the folder cannot be written.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UsageError(f'the report needs {" and ".join(missing)}: pip install -e ".[report]"')
    page = build(records, articles, budget or budget_of(records[0]))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in ((HTML, html(page)), (MARKDOWN, markdown(page))):
        unfinished = folder / f".{name}.{os.getpid()}.tmp"
        try:
            unfinished.write_bytes(text.encode("utf-8", "replace"))
            unfinished.replace(folder / name)
        finally:
            unfinished.unlink(missing_ok=True)
        written.append(folder / name)
    return written[0], written[1]


def build(records: Sequence[Record], articles: Sequence[Article] | None, budget: Budget) -> Page:
    """What the report on these rows of one run says."""
    reference = next((r for r in records if r.technique == REFERENCE and r.status == "ok"), None)
    planes = (figures.latency_and_quality, figures.rate_and_memory, figures.speed_ups, figures.latencies)
    others = (figures.quality, curves.batch_curves)
    first = records[0]
    decision = decide(records, budget)
    chosen = next((record for record in records if record.technique == decision.technique), None)
    return Page(
        title=f"Which optimisation to deploy: {first.settings.get('model_name', 'a model without a name')}",
        run=_moment(first.run),
        decision=decision,
        asked=verdict.asked(budget),
        command=verdict.command(chosen) if chosen else "",
        python="\n".join(verdict.lines_of_python(chosen)) if chosen else "",
        figures=[figure for make in (*planes, *others) if (figure := make(records))],
        stories=headlines.stories(records, articles),
        has_articles=articles is not None,
        copying=_copying(_timed(articles, first)) if articles else None,
        hardware=[f for f in (figures.limits(records), *figures.timelines(records)) if f],
        sections=[findings.section(record, reference) for record in records if record.status != "skipped"],
        skipped=[(r.technique, r.status, r.reason) for r in records if r.status != "ok"],
        settings=_pairs({name: value for name, value in first.settings.items() if name not in PLACES}),
        environment=_pairs(first.environment),
    )


def html(page: Page) -> str:
    """The page as one file."""
    from markupsafe import Markup

    environment = _environment(autoescape=True)
    environment.filters["svg"] = lambda figure: Markup(_described(figure))  # made here, of escaped names
    return environment.get_template(f"{HTML}.j2").render(page=page)


def markdown(page: Page) -> str:
    """The same as GitHub's Markdown, with the tables of the figures in the place of their pictures."""
    return _environment(finalize=_in_markdown).get_template(f"{MARKDOWN}.j2").render(page=page)


def _environment(**options: Any) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("udaciheadline.report")
    environment = Environment(
        loader=loader,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.filters["number"] = number
    environment.filters["sentence"] = _sentence
    environment.filters["lower_first"] = lambda text: text[:1].lower() + text[1:]
    return environment


def _described(figure: Figure) -> str:
    """The picture with its name and its text alternative, for those who hear the page."""
    from markupsafe import escape

    ids = f"{figure.name}-title", f"{figure.name}-text"
    opening = f'<svg role="img" aria-labelledby="{ids[0]} {ids[1]}" '
    texts = (
        f'<title id="{ids[0]}">{escape(figure.title)}</title><desc id="{ids[1]}">{escape(figure.alternative)}</desc>'
    )
    head, end, rest = figure.draw().removeprefix("<svg ").partition(">")
    return f"{opening}{head}{end}{texts}{rest}"


def _in_markdown(value: Any) -> Any:
    """A value so that no sign of it means anything to Markdown or breaks the cell or line that it stands in; what a
    macro has made is Markdown already."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", " ".join(value.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _timed(articles: Sequence[Article], record: Record) -> Sequence[Article]:
    """The articles of a row that were timed come first: of these the table and `results.csv` say the same."""
    count = record.settings.get("articles")
    return articles[:count] if isinstance(count, int) else articles


def _copying(articles: Sequence[Article]) -> Estimate:
    """ROUGE-1 of copying the description unchanged."""
    scores = quality.rouge([a.short_description for a in articles], [a.headline for a in articles])
    return mean(scores["rouge1"])


def _sentence(text: str) -> str:
    """With a capital letter and a full stop, unless it ends with another sign."""
    return text[:1].upper() + text[1:] + "." * (text[-1:] not in ".?!")


def _moment(run: str) -> str:
    """The run's name with its time as people write it."""
    try:
        moment = datetime.datetime.strptime(run, "%Y%m%dT%H%M%S.%fZ")
    except ValueError:
        return run
    return f"{run} ({moment:%d %B %Y, %H:%M} UTC)"


def _pairs(values: Any) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), str(value)) for name, value in values.items() if value not in ("", None)]
