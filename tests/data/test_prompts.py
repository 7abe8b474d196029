import pytest

from udaciheadline.data.prompts import (
    INSTRUCTION,
    completion_for,
    extract_headline,
    few_shot_count,
    make_prompt,
    prompt_for,
)
from udaciheadline.records import Article, UsageError


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


def test_with_a_stop_at_newlines_a_headline_is_the_first_line_that_has_text() -> None:
    assert extract_headline("\n\n Rain Falls \nThe original sentence is", "newline") == "Rain Falls"


def no_template(text: str) -> str:
    raise AssertionError("no chat template was asked for")


def test_a_prompt_with_examples_shows_them_with_their_headlines_in_the_notebooks_form() -> None:
    examples = [Article("One", "First."), Article("Two", "Second.")]
    prompt = make_prompt("few-shot:2", examples, no_template)
    assert prompt.fill("Third.") == (
        f"{prompt_for('First.')} One\n\n{prompt_for('Second.')} Two\n\n{prompt_for('Third.')}"
    )
    assert prompt.completion("Three") == " Three"


def test_a_chat_prompt_is_an_instruction_with_the_article_in_the_models_template() -> None:
    prompt = make_prompt("chat", [], lambda text: f"<user>{text}</user>\n")
    assert prompt.fill("Rain fell.") == f"<user>{INSTRUCTION.replace('{text}', 'Rain fell.')}</user>\n"
    assert prompt.completion("Rain Falls") == "Rain Falls"  # the line break before it is blank enough


def test_a_prompt_of_ones_own_is_a_text_file_with_a_place_for_the_article(write) -> None:
    path = write("prompt.txt", "Article: {text}\nA {short} title:")
    prompt = make_prompt(path, [], no_template)
    assert (prompt.name, prompt.fill("{text} as {it} is")) == (path, "Article: {text} as {it} is\nA {short} title:")


@pytest.mark.parametrize("text", ["no place", "{text} and {text}"])
def test_a_prompt_of_ones_own_has_the_place_once(write, text: str) -> None:
    with pytest.raises(UsageError, match=r"^--prompt .*prompt\.txt: \{text\} must stand in it once"):
        make_prompt(write("prompt.txt", text), [], no_template)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("caht", r"--prompt caht: it is no prompt and no text file that can be read \(No such file or directory\)"),
        ("few-shot", "--prompt few-shot: say how many articles it shows first, as in few-shot:3"),
        ("few-shot:0", "--prompt few-shot:0: say how many articles"),
        ("few-shot:many", "--prompt few-shot:many: say how many articles"),
    ],
)
def test_a_prompt_that_there_is_not_is_named(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}"):
        make_prompt(name, [], no_template)


def test_a_prompt_that_is_no_text_is_named(write) -> None:
    with pytest.raises(UsageError, match="it is not UTF-8"):
        make_prompt(write("prompt.txt", b"\xff{text}"), [], no_template)


@pytest.mark.parametrize(("name", "count"), [("notebook", 0), ("chat", 0), ("few-shot:12", 12), ("a/file.txt", 0)])
def test_the_number_of_examples_is_in_the_name_of_the_prompt(name: str, count: int) -> None:
    assert few_shot_count(name) == count
