import pytest

from udaciheadline.data.prompts import completion_for, extract_headline, prompt_for


def test_the_prompt_is_the_notebooks() -> None:
    assert prompt_for("Rain fell on Orrmarch.") == "Short description: Rain fell on Orrmarch.\nHeadline:"


@pytest.mark.parametrize("headline", ["Rain Falls", "Mayor: 'No'", "50% Off \N{EM DASH} {Sale}", "Ünïcode Tömorrow"])
def test_a_headline_comes_back_from_what_a_model_is_trained_to_write(headline: str) -> None:
    assert extract_headline(completion_for(headline)) == headline


def test_a_completion_begins_with_the_space_that_the_prompt_leaves_out() -> None:
    assert (prompt_for("x") + completion_for("Rain Falls")).endswith("\nHeadline: Rain Falls")


@pytest.mark.parametrize(
    ("completion", "headline"),
    [
        pytest.param("  Rain Falls \n", "Rain Falls", id="white space around it goes"),
        pytest.param(" Rain\nHeadline: Rain Falls", "Rain Falls", id="the last of repeated markers counts"),
        pytest.param(" Rain Falls\n\nShort description: More of", "Rain Falls", id="another article is cut off"),
        pytest.param(" A\nHeadline: Rain Falls\nShort description: B", "Rain Falls", id="both at once"),
        pytest.param(prompt_for("x") + " Rain Falls", "Rain Falls", id="a repeated prompt is cut off"),
        pytest.param(" Rain Falls", "Rain Falls", id="without a marker all of it stays, to the last character"),
        pytest.param(" rain headline: falls", "rain headline: falls", id="the marker is spelt with a capital"),
        pytest.param("", "", id="nothing from nothing"),
        pytest.param("Headline:", "", id="nothing after the marker"),
        pytest.param("Short description: x", "", id="nothing before another article"),
    ],
)
def test_the_headline_is_taken_from_a_completion(completion: str, headline: str) -> None:
    assert extract_headline(completion) == headline
