"""Lines on stderr for the person who called `locald`. Imports nothing of locald.

What comes from an image, a registry or a file may hold anything; a terminal shows it, and obeys none of it.
"""

import sys


def note(text: str) -> None:
    """Say something that is no error: one line."""
    write(f"locald: {text}")


def write(text: str) -> None:
    """Write one line to stderr; a reader that went away is no error."""
    try:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()
    except OSError:
        # Nobody reads it, and there is no other place to say so.
        return


def printable(text: str) -> str:
    """Return `text` with everything escaped that is no visible character, newlines included."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )
