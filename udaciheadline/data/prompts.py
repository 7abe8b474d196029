"""The one prompt and the one extraction that every technique shares."""

_DESCRIPTION = "Short description:"
_HEADLINE = "Headline:"


def prompt_for(short_description: str) -> str:
    """The prompt of the notebook: `Short description: {text}\\nHeadline:`."""
    return f"{_DESCRIPTION} {short_description}\n{_HEADLINE}"


def completion_for(headline: str) -> str:
    """What a model should write after `prompt_for`, the end-of-sequence token apart; the text it is trained on."""
    return f" {headline}"


def extract_headline(completion: str) -> str:
    """The headline in the text that a model wrote after the prompt, by the notebook's rule.

    It is what follows the last `Headline:` (a model may repeat it), up to the next `Short description:` (base models
    go on with another article). A text without either marker is kept whole: the notebook used `find`, whose -1 cut
    off the last character.
    """
    return completion.rpartition(_HEADLINE)[2].partition(_DESCRIPTION)[0].strip()
