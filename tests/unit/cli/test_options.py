"""The quick parser of `locald run` and click agree on every command line that the quick one takes."""

from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from locald.cli import run_help
from locald.cli.options import RUN_OPTIONS, Value, parse

FORMS = [form for option in RUN_OPTIONS for form in (option.long, option.short) if form]
WORDS = st.sampled_from(
    [
        *FORMS,
        "-it",
        "-ti",
        "-eA=b",
        "-itv",
        "--env=X=y",
        "--mode=direct",
        "--network",
        "none",
        "auto",
        "image",
    ]
) | st.sampled_from(
    ["--", "-", "", "-w/x", "-w=x", "--tty=1", "--no-such", "--nam", "x", "--help", "-h", "a b"]
)


def by_click(words: list[str]) -> tuple[dict[str, Value], list[str]] | None:
    """Return what click understands, in the quick parser's form; None if it has something to say."""
    seen: list[Any] = []
    command = click.Command(
        "run",
        params=run_help.command.params,
        callback=lambda image, command, **values: seen.append((values, [image, *command])),
        context_settings=run_help.command.context_settings,
    )
    try:
        command.main(words, standalone_mode=False)
    except click.ClickException:
        return None
    if not seen:
        return None
    values, rest = seen[0]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}, rest


@given(st.lists(WORDS, max_size=7))
@example(["-it", "image", "--", "sh", "-c", "x"])
@example(["-e", "--", "--", "image", "-i"])
@example(["--name", "--tty", "image"])
def test_the_two_parsers_agree(words: list[str]) -> None:
    """Whatever the quick one returns, click returns too; what it leaves to click may be anything."""
    quick = parse(words, RUN_OPTIONS)
    if quick is not None and quick[1]:
        assert by_click(words) == quick


@pytest.mark.parametrize(
    "words",
    [
        ["--no-such", "image"],
        ["--mode", "both", "image"],
        ["--tty=yes", "image"],
        ["--name"],
        ["--help"],
        ["-h", "image"],
        ["-iX", "image"],
    ],
)
def test_what_needs_words_is_left_to_click(words: list[str]) -> None:
    """Help, typos, values that are missing or wrong."""
    assert parse(words, RUN_OPTIONS) is None


def test_the_words_of_the_container_are_left_alone() -> None:
    """Options end at the image, so that `run image ls -i` is no -i of ours."""
    values, rest = parse(["-i", "image", "ls", "-t", "--", "--help"], RUN_OPTIONS) or ({}, [])
    assert values["interactive"] is True
    assert values["tty"] is False
    assert rest == ["image", "ls", "-t", "--", "--help"]
