"""What a model is asked, and where in its answer the headline is: the same for every technique.

A prompt is a text with a place for the article. `notebook` is the one of the notebook; `few-shot:K` shows K articles
with their headlines first, in the same form; `chat` is an instruction in the chat template of the model's tokenizer;
and a text file may say it in any other way.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from udaciheadline.records import Article, UsageError

STOPS = ("newline", "none")
"""Where a headline ends, beside the model's own end of sequence: at the first line break after text, or nowhere
else."""

PLACE = "{text}"
"""Where the article stands in a prompt that a user writes."""

INSTRUCTION = f"Write the headline of this news article, one line and nothing else: {PLACE}"

_DESCRIPTION = "Short description:"
_HEADLINE = "Headline:"


@dataclass(frozen=True)
class Prompt:
    """What stands `before` the article and `after` it; `name` is what `--prompt` calls it."""

    name: str
    before: str
    after: str

    def fill(self, short_description: str) -> str:
        """The prompt for an article."""
        return f"{self.before}{short_description}{self.after}"

    def completion(self, headline: str) -> str:
        """What a model should write after it, the end-of-sequence token apart: behind a blank, no other is needed."""
        return headline if self.after[-1:].isspace() else f" {headline}"


NOTEBOOK = Prompt("notebook", f"{_DESCRIPTION} ", f"\n{_HEADLINE}")


def prompt_for(short_description: str) -> str:
    """The prompt of the notebook: `Short description: {text}\\nHeadline:`."""
    return NOTEBOOK.fill(short_description)


def completion_for(headline: str) -> str:
    """What a model should write after `prompt_for`; the text that the embedded models are trained on."""
    return NOTEBOOK.completion(headline)


def few_shot_count(name: str) -> int:
    """How many articles with their headlines `--prompt NAME` shows first. Raises UsageError for `few-shot` without a
    number."""
    if not name.startswith("few-shot"):
        return 0
    if (number := re.fullmatch(r"few-shot:([1-9]\d*)", name)) is None:
        raise UsageError(f"--prompt {name}: say how many articles it shows first, as in few-shot:3")
    return int(number[1])


def make_prompt(name: str, examples: Sequence[Article], template: Callable[[str], str]) -> Prompt:
    """The prompt that `--prompt NAME` means: "notebook", "chat", "few-shot:K" or the path of a text file with `{text}`.

    `examples` are the K articles that are shown; `template` puts what a user says into the model's chat template, and
    raises UsageError where it has none. Raises UsageError for another name, or a file that cannot be used.
    """
    if name == NOTEBOOK.name:
        return NOTEBOOK
    if few_shot_count(name):
        shown = "".join(f"{prompt_for(a.short_description)}{completion_for(a.headline)}\n\n" for a in examples)
        return Prompt(name, shown + NOTEBOOK.before, NOTEBOOK.after)
    if name == "chat":
        return _around(name, template(INSTRUCTION))
    try:
        return _around(name, Path(name).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(
            f"--prompt {name}: it is no prompt and no text file that can be read ({reason}): give notebook, chat, "
            f"few-shot:K, or a file with {PLACE} where the article goes"
        ) from error


def _around(name: str, text: str) -> Prompt:
    before, place, after = text.partition(PLACE)
    if not place or PLACE in after:
        raise UsageError(f"--prompt {name}: {PLACE} must stand in it once, where the article goes")
    return Prompt(name, before, after)


def extract_headline(completion: str, stop: str = "none") -> str:
    """The headline in the text that a model wrote after the prompt, by the notebook's rule.

    It is what follows the last `Headline:` (a model may repeat it), up to the next `Short description:` (base models
    go on with another article). A text without either marker is kept whole: the notebook used `find`, whose -1 cut
    off the last character. With `stop` "newline" it is one line, the first that has text.
    """
    headline = completion.rpartition(_HEADLINE)[2].partition(_DESCRIPTION)[0].strip()
    return headline.partition("\n")[0].rstrip() if stop == "newline" else headline
