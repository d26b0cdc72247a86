"""Tell in one line why a test did not pass, from what pytest says of it. Pure: it imports nothing of the kit.

A message is what the exception says, an empty line, and pytest's listing. Of `assert x == y, result` the exception
says first what `result` is, in many lines, and only then what was compared: `assert 1 == 126`. A line at the left
edge is pytest's own: it indents whatever a value printed.
"""

import re
from typing import Final

LIMIT_CHARS: Final = 300
WHERE_CHARS: Final = 80
ASSERTED: Final = "assert "
RAISED: Final = "AssertionError: "
# What says nothing beside the words of who wrote the test.
BARE: Final = "assert False"
# What pytest adds below that fits in a line and says more than two values that it had to cut.
DETAILS: Final = ("At index ", "Left contains ", "Right contains ", "+  where ")
# How Python shows a value, unlike a sentence about one: "'signal 18' did not come" only starts with a quote.
VALUE: Final = re.compile(r"""[\[({<]|[A-Za-z_][\w.]*\(|(['"]).*\1$""")


def tell_reason(message: str) -> str:
    """Return the line that tells most: what was compared, behind the test's own words if it has any."""
    said = message.strip().partition("\n\n")[0].splitlines()
    lines = [line.removeprefix(RAISED) for line in said[:1]] + said[1:]
    place = next((number for number, line in enumerate(lines) if line.startswith(ASSERTED)), None)
    if place is None:
        return _shorten(said[0], LIMIT_CHARS) if said else ""
    words = [] if place == 0 or VALUE.match(lines[0]) else [lines[0]]
    shown = [] if words and lines[place] == BARE else [lines[place], *_find_detail(lines[place + 1 :])]
    return _shorten(": ".join(words + ["; ".join(shown)] * bool(shown)), LIMIT_CHARS)


def _find_detail(lines: list[str]) -> list[str]:
    """Return the first of pytest's additions that helps, or nothing."""
    found = next((line.strip() for line in lines if line.strip().startswith(DETAILS)), None)
    if found is None:
        return []
    text = found.removeprefix("+  ")
    if text == found or len(text) <= WHERE_CHARS:
        return [text]
    # `where 1 = Result(…).exit_code`: the name at its end tells what the value was of.
    value, _, origin = text.partition(" = ")
    name = origin.rpartition(")")[2]
    return [f"{value} = (...){name}" if name else _shorten(text, WHERE_CHARS)]


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
