"""`udaciheadline`: what is done with runs that are over, and a file of headlines. Measuring is `pytest bench`.

Exit status: 0, 1 for a regression, 4 for what cannot be used, as pytest's; `write` has some more.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from udaciheadline.evidence import compare as comparing
from udaciheadline.evidence.verdict import GOALS, parse_budget
from udaciheadline.records import Article, Record, UsageError
from udaciheadline.report import comparison, page
from udaciheadline.session import runs, store
from udaciheadline.session.store import plain
from udaciheadline.writing import options as writing

FORMATS = ("text", "markdown", "json")
RUN = (
    "a records file, a file that pytest-benchmark saved, a folder of baselines or results, or a run's name in --results"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that `arguments` (default: those of the process) name; the exit status."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every terminal has all that a file may hold
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except UsageError as error:
        print("udaciheadline:", *str(error).splitlines(), file=sys.stderr)
        return 4
    except OSError as error:
        print(f"udaciheadline: what was found cannot be printed ({error.strerror})", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left must not fail at exit again
        return 4
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="udaciheadline", description="What runs of `pytest bench` come to, and headlines for a file of articles."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    results = argparse.ArgumentParser(add_help=False)
    results.add_argument("--results", type=Path, default=Path("results"), help="folder of results (default: results)")

    compare = commands.add_parser(
        "compare", parents=[results], help="what got slower, larger or worse; 1 where something did"
    )
    compare.add_argument("baseline", metavar="BASELINE", nargs="?", help=f"{RUN} (default: what --against measured)")
    compare.add_argument(
        "current", metavar="CURRENT", nargs="?", help="the same (default: the latest run in --results)"
    )
    compare.add_argument("--format", choices=FORMATS, default="text", help="of what is printed (default: text)")
    compare.set_defaults(run=_compare)

    report = commands.add_parser("report", parents=[results], help="a page on a run, as HTML and as Markdown")
    report.add_argument("reported", metavar="RUN", nargs="?", help=f"{RUN} (default: the latest run in --results)")
    report.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="where the two files go (default: --results)"
    )
    report.add_argument("--budget", metavar="LIMITS", help="what the verdict must keep (default: the session's)")
    report.add_argument("--goal", choices=GOALS, help="what the verdict prefers (default: the session's)")
    report.set_defaults(run=_report)

    baseline = commands.add_parser("baseline", help="baselines, one a GPU and settings")
    promote = baseline.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "promote", parents=[results], help="make a run that passed the baseline for its GPU and settings"
    )
    promote.add_argument("promoted", metavar="RUN", nargs="?", help="a run's name in --results (default: the latest)")
    promote.add_argument("--baselines", type=Path, default=Path("baselines"), help="their folder (default: baselines)")
    promote.set_defaults(run=_promote)

    writing.declare(commands.add_parser("write", help="the headlines of a file of articles, as one job"))
    return parser


def _compare(options: argparse.Namespace) -> int:
    current = runs.load(options.current, options.results) if options.current else runs.latest(options.results)
    if options.baseline:
        found = comparing.compare(runs.load(options.baseline, options.results, current), current)
    else:
        found = comparing.in_turn(current)
    if options.format == "json":
        print(json.dumps(plain(found) | {"regressions": len(found.regressions)}, indent=2, allow_nan=False))
    else:
        print(comparison.markdown(found) if options.format == "markdown" else comparison.text(found))
    return int(bool(found.regressions))


def _report(options: argparse.Namespace) -> int:
    run = runs.load(options.reported, options.results) if options.reported else runs.latest(options.results)
    asked = run[0].settings
    budget, goal = (
        asked.get(name, "") if given is None else given
        for name, given in (("budget", options.budget), ("goal", options.goal))
    )
    kept = parse_budget(str(budget), str(goal or GOALS[0]))
    try:
        written = page.write(run, options.output or options.results, _articles(options, run[0]), kept)
    except OSError as error:
        raise UsageError(f"{error.filename}: it cannot be written ({error.strerror}): give another -o") from error
    except (ArithmeticError, ValueError) as error:
        raise UsageError(
            f"run {run[0].run}: it has figures that no session measures ({error}): name another"
        ) from error
    print(*written, sep="\n")
    return 0


def _articles(options: argparse.Namespace, record: Record) -> list[Article] | None:
    """The articles of a run, of the folder of results that it is named by, or lies in; None where no such folder has
    kept them."""
    folders = [options.results]
    if options.reported and (path := Path(options.reported)).exists():
        folders = [path, *path.resolve().parents[:2], *folders]
    found = (store.articles(folder, record.settings.get("fingerprint")) for folder in folders)
    return next((articles for articles in found if articles), None)


def _promote(options: argparse.Namespace) -> int:
    print(runs.promote(options.promoted, options.results, options.baselines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
