"""What `udaciheadline write` takes."""

import argparse
from pathlib import Path

from udaciheadline.session.options import add_shared

EPILOGUE = """\
Exit status: 0; 1 where an article has an error; 3 where the engine ended before its time; 4 for what cannot be used;
130 after Ctrl-C. After anything but 0 and 1, the same command goes on where the file of headlines ends.
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments to the command's parser."""
    add = parser.add_argument
    parser.epilog, parser.formatter_class = EPILOGUE, argparse.RawDescriptionHelpFormatter
    add("source", metavar="ARTICLES", help="what --dataset takes of `pytest bench`, or - for standard input")
    output = "a .jsonl or .csv file, or - for standard output (default), where it is CSV if ARTICLES is"
    add("-o", "--output", metavar="HEADLINES", default="-", help=output)
    add("--overwrite", action="store_true", help="begin anew where HEADLINES exists")
    technique = "one of `pytest bench` (default: the one that the last run in --results tells to deploy for jobs)"
    add("--technique", metavar="NAME", help=technique)
    add_shared(add)
    add("--examples", metavar="FILE", help="where few-shot:K finds K articles with headlines (default: ARTICLES)")
    add("--output-column", default="generated_headline", help="column for the headline (default: generated_headline)")
    add("--error-column", default="error", help="column for why an article has none (default: error)")
    add("--results", type=Path, default=Path("results"), help="folder of results (default: results)")
    seconds = "that a chunk of articles, or building, may take before the engine is given up (default: 600)"
    add("--timeout", type=float, default=600.0, metavar="SECONDS", help=seconds)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from udaciheadline.writing import command  # here, because other commands need none of it

    return command.write(options)
