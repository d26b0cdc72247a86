"""Prove that a profile is in force on its machine: by doing, with the output as evidence.

Run before the clauses and again after them. A profile that is not in force makes every verdict of
its run worthless, so the caller reports INVALID, never a skip.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vms import engines, watch
from vms.deadline import Deadline
from vms.guest import Guest, Output
from vms.profile import Fact, Profile

FACT_LIMIT_S = 60.0
SEARCH = Fact(
    id="no-container-engine",
    says="no container engine anywhere in the file system, on $PATH or not",
    user="root",
    command=(),
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was done to prove one fact, what it showed, and whether that is what had to be."""

    fact: str
    says: str
    command: tuple[str, ...]
    user: str
    expected: str
    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    holds: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """All evidence for a profile, in the order in which it was taken."""

    profile: str
    evidence: tuple[Evidence, ...]

    @property
    def in_force(self) -> bool:
        """Whether every fact holds."""
        return bool(self.evidence) and all(piece.holds for piece in self.evidence)

    @property
    def missing(self) -> tuple[Evidence, ...]:
        """The facts that do not hold."""
        return tuple(piece for piece in self.evidence if not piece.holds)


def list_facts(profile: Profile) -> tuple[Fact, ...]:
    """Return everything that `prove` looks at, in its order."""
    search = replace(SEARCH, command=tuple(engines.make_search(profile.allowed_engines)))
    return (search, *profile.facts, *([watch.UNTOUCHED] if profile.watched else ()))


def prove(guest: Guest) -> Proof:
    """Try every fact of the guest's profile, in order, also after one that does not hold.

    Raises:
        GuestLost: The guest did not answer; that is no statement about the profile.
    """
    profile = guest.profile
    search, *facts = list_facts(profile)
    found = guest.run(search.command, user=search.user, deadline=Deadline.after(3 * FACT_LIMIT_S))
    pieces = [judge(search, found, extra=found.stdout == b"", expected="nothing found")]
    for fact in facts:
        output = guest.run(
            fact.command,
            user=fact.user,
            # The words of strerror are matched, so they must not be translated.
            env={"LC_ALL": "C"},
            deadline=Deadline.after(FACT_LIMIT_S),
        )
        pieces.append(judge(fact, output))
    return Proof(profile.name, tuple(pieces))


def judge(fact: Fact, output: Output, *, extra: bool = True, expected: str = "") -> Evidence:
    """Return the evidence that `output` is, for or against `fact`."""
    holds = extra and not output.timed_out
    demands = [expected] if expected else []
    if fact.exit_code is None:
        demands.append("exit code other than 0")
        holds = holds and output.exit_code != 0
    else:
        demands.append(f"exit code {fact.exit_code}")
        holds = holds and output.exit_code == fact.exit_code
    for name, pattern, text in (
        ("stdout", fact.stdout, output.text),
        ("stderr", fact.stderr, output.error_text),
    ):
        if pattern is not None:
            demands.append(f"{name} ~ {pattern}")
            holds = holds and re.search(pattern, text) is not None
    return Evidence(
        fact=fact.id,
        says=fact.says,
        command=output.command,
        user=output.user,
        expected=", ".join(demands),
        exit_code=output.exit_code,
        stdout=output.text,
        stderr=output.error_text,
        seconds=round(output.seconds, 3),
        holds=holds,
    )


def render(proof: Proof) -> Sequence[str]:
    """Return the proof as lines for a person."""
    lines = []
    for piece in proof.evidence:
        lines.append(f"{'ok  ' if piece.holds else 'FAIL'}  {piece.fact}: {piece.says}")
        if not piece.holds:
            lines.append(f"      as {piece.user}: {' '.join(piece.command)}")
            lines.append(f"      expected {piece.expected}; exit code {piece.exit_code}")
            said = f"{piece.stdout}\n{piece.stderr}".strip().splitlines()
            lines += [f"      | {line}" for line in said]
    return lines
