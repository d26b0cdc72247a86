"""The options of a run, in one table: pytest declares them from it, `run` shows them, and a test holds the guide to it.

Without pytest: what an option does is with whoever reads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from conformance.clauses import OURS
from conformance.runtimes import RUNTIMES


class Reader(Enum):
    """Who reads an option."""

    # `run` alone, which starts a process of pytest for each host.
    RUN = "run"
    # `run`, and then each host's process, to which it gives its own choice.
    BOTH = "both"
    # Each host's process; `run` hands it on. Of what is tested it looks whether it is there, and whether another wheel
    # is reported on in the same place.
    HOST = "host"
    # An option of pytest's own, to which the kit gives another meaning.
    PYTEST = "pytest"
    # From one part of the kit to another; nothing for a person to type.
    INNER = "inner"


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its name, what it does in a line, and what a parser has to know besides."""

    name: str
    reader: Reader
    help: str
    more: Mapping[str, Any] = field(default_factory=dict)

    def declare(self, add: Callable[..., object], **changes: object) -> None:
        """Declare it to a parser by `add`: argparse's add_argument or pytest's addoption, which understand the same."""
        add(self.name, **{"help": self.help, **self.more, **changes})


OPTIONS: Final = (
    Option(
        "--profile",
        Reader.BOTH,
        "the hosts to judge, names of vms/profiles separated by commas; by default those that a release needs",
        {"metavar": "A,B"},
    ),
    Option(
        "--jobs",
        Reader.RUN,
        "how many hosts at a time; by default one for each processor, as far as the memory goes",
        {"metavar": "N", "type": int},
    ),
    Option(
        "--clause",
        Reader.HOST,
        "judge only these clauses: globs separated by commas, such as 'SIG-*'",
        {"metavar": "GLOB"},
    ),
    Option("--last-failed", Reader.PYTEST, "judge again what was red on each host", {"action": "store_true"}),
    Option(
        "--runtime",
        Reader.BOTH,
        f"what runs the bundles: {', '.join(RUNTIMES)} (default: %(default)s)",
        {"metavar": "NAME", "default": OURS},
    ),
    Option(
        "--wheel",
        Reader.HOST,
        "the wheel to test; by default one is built from this tree",
        {"metavar": "FILE"},
    ),
    Option(
        "--shim",
        Reader.HOST,
        "a shim to test instead of the wheel's; such a report is no evidence for a release",
        {"metavar": "FILE"},
    ),
    Option(
        "--report-dir",
        Reader.BOTH,
        "where the report goes; by default a new directory in reports/, named by the time",
        {"metavar": "DIR"},
    ),
    Option(
        "--seed",
        Reader.BOTH,
        "the order of the tests; by default a new one each time",
        {"metavar": "N", "type": int},
    ),
    Option(
        "--attempts",
        Reader.HOST,
        "how often a test that fails is tried; FLAKY if it passes then (default: %(default)s)",
        {"metavar": "N", "type": int, "default": 3},
    ),
    Option(
        "--keep-on-fail",
        Reader.HOST,
        "leave the machine up if the run is not green",
        {"action": "store_true"},
    ),
    Option(
        "--shell-on-fail",
        Reader.HOST,
        "open root's shell on the machine if the run is not green; for one host, on a terminal",
        {"action": "store_true"},
    ),
    Option(
        "--reuse",
        Reader.HOST,
        "use a machine that is up, and leave it up; such a report is no evidence for a release",
        {"action": "store_true"},
    ),
    Option(
        "--cold",
        Reader.HOST,
        "boot the machine even if a booted one was kept",
        {"action": "store_true"},
    ),
    Option(
        "--kit-cache",
        Reader.HOST,
        "where what is made for the guests is kept (default: %(default)s)",
        {"metavar": "DIR", "default": "~/.cache/locald-kit"},
    ),
    Option(
        "--planted",
        Reader.INNER,
        "the machine holds a planted fault: only run the clauses",
        {"metavar": "CONTROL"},
    ),
    Option(
        "--progress-fd",
        Reader.INNER,
        "a pipe for how far it is; from `python3 -m conformance run`",
        {"metavar": "FD", "type": int},
    ),
)
