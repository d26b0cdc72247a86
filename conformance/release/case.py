"""All that the gate looks at, and what it asks of whatever was judged or planted: the wheel, the kit, the age."""

import datetime
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from securesystemslib.signer import Key

import vms
from conformance.clauses import Catalogue
from conformance.controls import Control
from conformance.release.policy import Policy
from conformance.runtimes import find_modes
from conformance.waivers import Waiver

SHOWN: Final = 6
# Clocks of two machines differ a little.
SKEW: Final = datetime.timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Host:
    """What a profile of this tree asks of a machine that calls itself by its name."""

    traits: tuple[str, ...]
    # What is proven before and after, by name.
    facts: Mapping[str, vms.Fact]
    # Whether it boots from a box, which then has a digest.
    boxed: bool

    @property
    def modes(self) -> frozenset[str]:
        """Return the modes in which a test has to be there."""
        return frozenset(find_modes(self.traits))


@dataclass(frozen=True, slots=True)
class Case:
    """All that the gate looks at."""

    wheel: bytes
    # What the wheel installs; None if it holds no shim.
    wheel_shim_sha256: str | None
    report: bytes
    # Those of `statement.RENDERED` that are beside the report.
    rendered: Mapping[str, bytes]
    envelope: bytes | None
    keys: tuple[Key, ...]
    catalogue: Catalogue
    # Every test with the clauses that it judges, and those that have a case in each mode.
    tests: Mapping[str, tuple[str, ...]]
    modal: frozenset[str]
    waivers: tuple[Waiver, ...]
    controls: Mapping[str, Control]
    hosts: Mapping[str, Host]
    kit_sha256: str
    # Of what faults are planted into.
    planted_sha256: str
    # What of the wheel is not this tree's, and the build that a shim of its sources says it is.
    wheel_foreign: tuple[str, ...]
    shim_build: str
    policy: Policy
    # When it is judged: what expires does so by this time.
    now: datetime.datetime


def read_hosts() -> dict[str, Host]:
    """Return the hosts of this tree by their names."""
    return {
        name: Host(
            profile.traits, {fact.id: fact for fact in vms.list_facts(profile)}, boxed=profile.kind == "vm"
        )
        for name, profile in ((name, vms.read(name)) for name in vms.names())
    }


def judge_wheel(case: Case, sha256: object) -> Iterator[str]:
    """Yield a line unless it was about the wheel in question."""
    if sha256 != hashlib.sha256(case.wheel).hexdigest():
        yield "it is about another wheel"


def judge_kit(case: Case, kit: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line unless the kit is this tree's, file by file, and a commit that somebody can look up."""
    if kit.get("sha256") != case.kit_sha256:
        yield "another kit judged: its files are not those of this tree"
    elif not kit.get("revision"):
        yield "the kit names no commit"
    elif kit.get("dirty") is not False:
        yield "the kit had changes that are in no commit"


def judge_age(case: Case, finished: str) -> Iterator[str]:
    """Yield a line unless it finished in the past, and not too long ago."""
    time = parse_time(finished)
    if time is None or time - case.now > SKEW:
        yield f"it finished at no time in the past: {finished}"
    elif case.now - time > datetime.timedelta(days=case.policy.max_age_days):
        yield f"expired: it finished on {finished}, more than {case.policy.max_age_days} days ago"


def shorten(names: Sequence[str]) -> str:
    """Return the first of `names`, and how many more there are."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def parse_time(text: str) -> datetime.datetime | None:
    """Return a time as reports write it, or None."""
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    except ValueError:
        return None
