"""Colour for a terminal that has it. What is coloured says the same in words: colour alone means nothing."""

from collections.abc import Callable

Paint = Callable[[str, str], str]
"""Gives a text in a colour ("green", "red", ...), or as it is where there is none."""

COLOURS = {
    "deploy": "green",
    "undecided": "yellow",
    "excluded": "red",
    "not run": "red",
    "dominated": "light",
    "slower": "light",
    "not worth it": "light",
}
"""What a row's state in the verdict is shown in; what is missing is not coloured."""


def plain(text: str, colour: str) -> str:
    """No colour."""
    return text


def by_state(text: str, state: str, paint: Paint) -> str:
    """A text in the colour of a state."""
    return paint(text, COLOURS[state]) if state in COLOURS else text
