"""Writes invented articles as JSON lines, in the form of the News Category Dataset."""

import argparse
import dataclasses
import json
import sys

from udaciheadline.data.newswire import evaluation_articles, training_articles


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m udaciheadline.newswire", description=__doc__)
    parser.add_argument("--articles", type=int, help="training articles to write (default: the evaluation articles)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training articles (default: 0)")
    options = parser.parse_args()
    if options.articles is not None and options.articles < 0:
        parser.error(f"--articles {options.articles}: give 0 or more")
    articles = evaluation_articles() if options.articles is None else training_articles(options.articles, options.seed)
    for article in articles:
        sys.stdout.write(json.dumps(dataclasses.asdict(article)) + "\n")


if __name__ == "__main__":
    main()
