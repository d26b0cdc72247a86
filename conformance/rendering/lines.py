"""Lines for a terminal, made of texts that a payload or a stranger's report may have chosen.

Imports nothing of the kit: whatever prints a report's words passes them through here.
"""


def make_line(text: str) -> str:
    """Return `text` as one line that only shows: it moves no cursor, turns no word around and ends no line.

    Line ends become a space; every other character that Python calls unprintable becomes its escape. Those are the
    control characters, the marks that turn the direction of writing, surrogates, and blanks other than the space.
    Blanks at the start stay: lines are indented with them.
    """
    first, *rest = text.splitlines() or [""]
    folded = " ".join([first.rstrip(), *filter(None, (part.strip() for part in rest))])
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in folded
    )


def count_things(number: int, thing: str) -> str:
    """Return `1 reason` or `2 reasons`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
