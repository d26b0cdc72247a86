"""The options of `locald run`: one table, and a parser for command lines that need no explanation.

Imports the standard library only. click is dear to load beside all else that `locald run` does before the
container starts (docs/decisions/0012), so a well-formed command line is read here. Whatever is not (help, a
typo, a missing value) goes to click, whose command is made from the same table;
tests/unit/cli/test_options.py holds the two to the same answers.
"""

from typing import NamedTuple


class Option(NamedTuple):
    """An option; without a metavar it is a flag."""

    name: str  # of the value, and, with dashes, of the long form
    help: str
    short: str = ""
    metavar: str = ""
    many: bool = False
    choices: tuple[str, ...] = ()

    @property
    def long(self) -> str:
        """The long form, with its dashes."""
        return "--" + self.name.replace("_", "-")


Value = str | bool | list[str] | None

RUN_OPTIONS = (
    Option("interactive", "Keep stdin open; without it stdin is empty.", "-i"),
    Option("tty", "Give the container a terminal of its own.", "-t"),
    Option("name", "Name of the container, and its host name with --network none.", metavar="NAME"),
    Option("env", "Set a variable; NAME alone takes its value from here.", "-e", "NAME[=VALUE]", many=True),
    Option("env_file", "Read variables from a file, one NAME[=VALUE] a line.", metavar="FILE", many=True),
    Option("workdir", "Working directory in the container.", "-w", "DIR"),
    Option("user", "Run as this user of the image.", "-u", "USER[:GROUP]"),
    Option(
        "volume", "Show a file or directory of this host in the container.", "-v", "SRC:DST[:ro]", many=True
    ),
    Option("entrypoint", "Run this instead of the image's entrypoint.", metavar="PROGRAM"),
    Option("network", "The host's network, or none at all [host].", metavar="NET", choices=("host", "none")),
    Option(
        "mode",
        "With a user namespace (mapped), without (direct), or what works here [auto].",
        metavar="MODE",
        choices=("auto", "mapped", "direct"),
    ),
    Option("memory", "Most memory, such as 512m or 2g.", "-m", "SIZE"),
    Option("memory_swap", "Most memory and swap together; -1 for any swap [twice --memory].", metavar="SIZE"),
    Option("pids_limit", "Most processes and threads.", metavar="NUMBER"),
    Option("cpus", "Most processor time, in processors: 0.5, 2.", metavar="NUMBER"),
    Option("cpu_shares", "Weight against others for processor time [1024].", "-c", "WEIGHT"),
    Option("read_only", "Make the root filesystem read-only."),
    Option("no_init", "Make the command itself process 1, without an init that reaps and forwards."),
    Option("no_input", "Never ask anything."),
)


def parse(words: list[str], options: tuple[Option, ...]) -> tuple[dict[str, Value], list[str]] | None:
    """Read options up to the first other word.

    Returns:
        The values by name (False, None or [] where not given) and the words that are left; None where click
        has something to explain.
    """
    known = {form: option for option in options for form in (option.long, option.short) if form}
    values: dict[str, Value] = {
        option.name: [] if option.many else None if option.metavar else False for option in options
    }
    rest = words[::-1]
    while rest and rest[-1].startswith("-") and rest[-1] != "-":
        word = rest.pop()
        if word == "--":
            break
        form, attached = _split(word)
        option = known.get(form)
        if option is None or not _take(option, attached, word, values, rest):
            return None
    return values, rest[::-1]


def _split(word: str) -> tuple[str, str | None]:
    """Return an option's form and what is attached to it: --name=VALUE, -nVALUE."""
    if word.startswith("--"):
        form, equals, value = word.partition("=")
        return form, value if equals else None
    return word[:2], word[2:] or None


def _take(option: Option, attached: str | None, word: str, values: dict[str, Value], rest: list[str]) -> bool:
    """Set the option's value, from `rest` if none is attached; False if it has none, or a wrong one."""
    if not option.metavar:
        if attached is not None:
            if word.startswith("--"):
                return False
            # -it is -i -t.
            rest.append("-" + attached)
        values[option.name] = True
        return True
    if attached is None:
        if not rest:
            return False
        attached = rest.pop()
    before = values[option.name]
    if isinstance(before, list):
        before.append(attached)
    else:
        values[option.name] = attached
    return not option.choices or attached in option.choices
