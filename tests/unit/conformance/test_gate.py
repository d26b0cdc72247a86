"""The release gate: a good report passes, and each kind of bad one is refused with a line that says why."""

import base64
import datetime
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vms
from conformance.controls import Control
from conformance.release.case import Case, Host
from conformance.release.gate import find_faults
from conformance.release.policy import POLICY, Policy, PolicyError, read_policy
from conformance.release.statement import (
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    StatementError,
    make_statement,
    open_envelope,
    read_public_key,
    sign,
)
from conformance.report import HostState, Json, ProfileRun
from conformance.verdicts import Outcome
from conformance.waivers import Waiver
from tests.unit.conformance import samples
from tests.unit.conformance.release_keys import write_keys
from tests.unit.conformance.samples import (
    BUILD,
    CATALOGUE,
    GREEN,
    KIT,
    PLANTED,
    SHIM,
    account,
    as_bytes,
    digest,
    make_wheel,
    proof,
    record,
    run,
    seen,
)

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
EXPIRES = "2026-12-01T00:00:00Z"
LAST_DAY = datetime.date(2026, 11, 23)
Change = Callable[[Json], None]
FACTS = {"fact": vms.Fact("fact", "so it is", "root", ("/bin/is", "so"))}


def make_report(
    *runs: ProfileRun, waivers: tuple[Waiver, ...] = (), controls: tuple[Json, ...] | None = None
) -> Json:
    """Return the report of these runs, or of one green one, with a good account of planted faults."""
    return samples.make_report(
        *runs, waivers=waivers, controls=(account(),) if controls is None else controls
    )


def make_case(
    report: Json, keys: tuple[Path, Path], *, expires: str = EXPIRES, waivers: tuple[Waiver, ...] = ()
) -> Case:
    """Return a case in which everything is in order, if the report is."""
    content = as_bytes(report)
    pages = {"index.html": b"<!doctype html>", "junit.xml": b"<testsuites/>"}
    rendered = {name: digest(page) for name, page in pages.items()}
    return Case(
        wheel=make_wheel(),
        wheel_shim_sha256=digest(SHIM),
        report=content,
        rendered=pages,
        envelope=sign(make_statement(report, content, expires=expires, rendered=rendered), keys[0]),
        keys=(read_public_key(keys[1]),),
        catalogue=CATALOGUE,
        tests={f"test_a.py::test_{name}": (name,) for name in CATALOGUE},
        modal=frozenset(),
        waivers=waivers,
        controls={
            name: Control(name, "says", hosts=hosts)
            for name, hosts in (("always-fails", ("*",)), ("of-others", ("vm",)))
        },
        hosts={
            "local": Host((), FACTS, boxed=False),
            "vm": Host((), FACTS, boxed=True),
        },
        kit_sha256=KIT,
        planted_sha256=PLANTED,
        wheel_foreign=(),
        shim_build=BUILD,
        policy=Policy(("local",), 14),
        now=NOW,
    )


def changed(change: Change, **more: Any) -> Json:
    """Return a good report with one change, signed afterwards like any other."""
    report: Json = json.loads(as_bytes(make_report(run(*GREEN, **more))))
    change(report["profiles"][0])
    return report


def test_a_good_report_passes(keys: tuple[Path, Path]) -> None:
    """Complete, signed, matching, unexpired; a SHOULD that fails is no reason."""
    assert find_faults(make_case(make_report(), keys)) == []


def test_the_statement_is_in_totos(keys: tuple[Path, Path]) -> None:
    """Statement v1, predicate test-result, subject wheel and shim, and what the verdicts hold for."""
    case = make_case(make_report(run(*GREEN), run(*GREEN, profile="vm")), keys)
    assert case.envelope is not None
    envelope = json.loads(case.envelope)
    statement, why_not = open_envelope(case.envelope, list(case.keys))

    assert (envelope["payloadType"], why_not) == (PAYLOAD_TYPE, "")
    assert json.loads(base64.b64decode(envelope["payload"])) == statement
    assert (statement["_type"], statement["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
    assert {entry["digest"]["sha256"] for entry in statement["subject"]} == {
        digest(make_wheel()),
        digest(SHIM),
    }
    predicate = statement["predicate"]
    assert predicate["result"] == "WARNED"  # of the SHOULD
    assert predicate["passedTests"] == ["local/AB-001", "local/AB-002", "vm/AB-001", "vm/AB-002"]
    assert predicate["failedTests"] == ["local/CD-003", "vm/CD-003"]
    names = [entry["name"] for entry in predicate["configuration"]]
    assert names == ["report.json", "index.html", "junit.xml", "profile/local", "profile/vm"]
    about = predicate["configuration"][3]["annotations"]
    assert about | {"guest_kernel": "6.1.0", "seed": "7"} == about


def set_in(*path: Any) -> Change:
    """Return a change that puts the last of `path` at the place that the others name."""

    def change(profile: Json) -> None:
        *steps, key, value = path
        functools.reduce(lambda inner, step: inner[step], steps, profile)[key] = value

    return change


BAD_REPORTS: dict[str, tuple[Json, str]] = {
    "other wheel": (changed(set_in("subject", "wheel_sha256", "0" * 64)), "about another wheel"),
    "other shim": (
        changed(set_in("subject", "installed_shim_sha256", "0" * 64)),
        "the shim that ran is not the one in the wheel",
    ),
    "other sources": (
        changed(set_in("subject", "shim_build", "0" * 64)),
        "the shim that ran was built from other sources than this tree's",
    ),
    "other kit": (changed(set_in("kit", "sha256", "0" * 64)), "another kit judged"),
    "changed kit": (changed(set_in("kit", "dirty", True)), "the kit had changes"),  # noqa: FBT003
    "other runtime": (changed(set_in("runtime", "crun")), "it judged crun"),
    "no kernel": (changed(lambda profile: profile["subject"].pop("guest_kernel")), "its guest_kernel"),
    "no policy": (changed(lambda profile: profile["subject"].pop("policy_sha256")), "its policy_sha256"),
    "box without digest": (changed(set_in("subject", "box", "debian12")), "the digest of its box"),
    "missing profile": (make_report(run(*GREEN, profile="vm")), "profile local: missing"),
    "failed clause": (
        make_report(run(*GREEN[1:], record("AB-001", Outcome.FAILED, message="boom"))),
        "profile local: AB-001: FAIL: boom",
    ),
    "flaky clause": (
        make_report(run(*GREEN[1:], record("AB-001", Outcome.FAILED, Outcome.PASSED, message="late"))),
        "profile local: AB-001: FLAKY: passed 1 of 2: late",
    ),
    "untested clause": (make_report(run(*GREEN[1:])), "profile local: AB-001: MISSING"),
    "red beside the required": (
        make_report(run(*GREEN), run(*GREEN[1:], profile="vm")),
        "profile vm: AB-001: MISSING",
    ),
    "clause left out": (
        changed(lambda profile: profile["clauses"].pop(0)),
        "1 clauses are missing: AB-001",
    ),
    "clause twice": (
        changed(lambda profile: profile["clauses"].append(profile["clauses"][0])),
        "a clause stands there twice",
    ),
    "clause of no catalogue": (
        changed(set_in("clauses", 1, "id", "ZZ-999")),
        "1 clauses are not this host's: ZZ-999",
    ),
    "level lowered": (changed(set_in("clauses", 0, "level", "SHOULD")), "AB-001 is a MUST, not a SHOULD"),
    "verdict embellished": (
        changed(set_in("clauses", 0, "tests", 0, "attempts", 0, "outcome", "failed")),
        "AB-001: its verdict PASS does not follow",
    ),
    "a selection": (changed(set_in("complete", False)), "only a selection"),  # noqa: FBT003
    "precondition lost": (
        make_report(run(*GREEN, after=(proof(proven=False),))),
        "profile local: INVALID: not proven after the clauses: fact",
    ),
    "precondition never proven": (
        changed(lambda profile: profile["preconditions"].update(before=[])),
        "INVALID: nothing was proven of the host before",
    ),
    "host changed": (
        make_report(run(*GREEN, errors=("the host was changed: accounts - x",))),
        "an error of the run: the host was changed",
    ),
    "host changed silently": (
        make_report(run(*GREEN, host=seen(setuid=["/usr/bin/evil"]))),
        "profile local: the host was changed: setuid + /usr/bin/evil",
    ),
    "host not looked at": (
        make_report(run(*GREEN, host=HostState({"setuid": []}, {"setuid": []}))),
        "profile local: nobody looked at the host's sysctls, accounts, mounts of ours",
    ),
    "used before": (
        changed(set_in("subject", "reused", "it was up")),
        "its machine was up before the run",
    ),
    "kit of no commit": (changed(lambda profile: profile["kit"].pop("revision")), "the kit names no commit"),
    "kit that may be changed": (changed(lambda profile: profile["kit"].pop("dirty")), "the kit had changes"),
    "no evidence": (
        make_report(run(*GREEN[1:], record("AB-001", Outcome.PASSED, evidence=()))),
        "AB-001: passed without evidence: conformance/test_a.py::test_AB-001",
    ),
    "empty evidence": (
        make_report(run(*GREEN[1:], record("AB-001", Outcome.PASSED, evidence=({},)))),
        "AB-001: passed without evidence: conformance/test_a.py::test_AB-001",
    ),
    "SHOULD that nobody judged": (make_report(run(*GREEN[:2])), "profile local: CD-003: MISSING"),
    "proven by another command": (
        changed(set_in("preconditions", "before", 0, "command", ["true"])),
        "INVALID: proven before the clauses by another command: fact",
    ),
    "red by its own word": (
        {**make_report(), "green": False},
        "it calls itself green, or not, against its own profiles",
    ),
    "planted": (
        make_report(run(*GREEN, subject={"planted": "always-succeeds"})),
        "a planted fault or a measured build: always-succeeds",
    ),
    "measured": (
        make_report(run(*GREEN, subject={"planted": "coverage"})),
        "a planted fault or a measured build: coverage",
    ),
    "too old": (changed(set_in("finished", "2026-11-01T00:00:00Z")), "expired: it finished on 2026-11-01"),
    "of the future": (changed(set_in("finished", "2027-01-01T00:00:00Z")), "at no time in the past"),
    "green by its own word": (
        changed(set_in("green", False)),  # noqa: FBT003
        "calls itself green, or not, against",
    ),
}


@pytest.mark.parametrize("name", BAD_REPORTS)
def test_a_bad_report_is_refused_though_it_is_signed(name: str, keys: tuple[Path, Path]) -> None:
    """The signature says who vouches, not that the report is good; each fault has its line."""
    report, says = BAD_REPORTS[name]
    faults = find_faults(make_case(report, keys))

    assert any(says in fault for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


def test_an_unsigned_report_is_refused(keys: tuple[Path, Path]) -> None:
    """There is no envelope, or it is none."""
    case = make_case(make_report(), keys)
    assert find_faults(replace(case, envelope=None)) == [
        "unsigned: there is no envelope beside the report (ci/nox -s report -- sign REPORT --key KEY)"
    ]
    for broken in (b"", b"{}", b"[]", b"null", b'{"payload": 1, "payloadType": 2, "signatures": 3}'):
        (fault,) = find_faults(replace(case, envelope=broken))
        assert fault.startswith("signature: not a DSSE envelope")
    without = json.dumps({**json.loads(case.envelope or b""), "signatures": []}).encode()
    assert find_faults(replace(case, envelope=without)) == [
        "signature: the signature is not by a trusted key over these bytes"
    ]


def test_a_report_signed_by_somebody_else_is_refused(keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Nor does a signature count where nobody is trusted."""
    wrong = make_case(make_report(), write_keys(tmp_path, "wrong"))
    assert find_faults(replace(wrong, keys=(read_public_key(keys[1]),))) == [
        "signature: the signature is not by a trusted key over these bytes"
    ]
    (fault,) = find_faults(replace(wrong, keys=()))
    assert fault.startswith("signature: no key is trusted")


def test_an_envelope_of_another_report_is_refused(keys: tuple[Path, Path]) -> None:
    """The statement names the report by its digest, and says what the report says."""
    case, other = make_case(make_report(), keys), make_case(make_report(run(*GREEN, seed=8)), keys)
    assert find_faults(replace(case, envelope=other.envelope)) == [
        "signature: the statement is about another report.json, or this one was changed"
    ]
    statement = make_statement(make_report(), case.report, expires=EXPIRES)
    statement["predicate"]["failedTests"] = []
    assert find_faults(replace(case, envelope=sign(statement, keys[0]), rendered={})) == [
        "signature: the statement does not say what the report says"
    ]


def test_an_expired_statement_is_refused(keys: tuple[Path, Path]) -> None:
    """However young the report is."""
    (fault,) = find_faults(make_case(make_report(), keys, expires="2026-11-22T23:59:59Z"))
    assert fault == "expired: the statement counted until 2026-11-22T23:59:59Z"
    (fault,) = find_faults(make_case(make_report(), keys, expires="never"))
    assert "no time at which it expires" in fault


def test_a_waiver_counts_until_its_day(keys: tuple[Path, Path]) -> None:
    """It was in force when the report was made; at the gate it has to be, still."""
    failed = run(*GREEN[1:], record("AB-001", Outcome.FAILED, message="boom"))
    waiver = Waiver("AB-001", "*", "being mended", "somebody", LAST_DAY)
    case = make_case(make_report(failed, waivers=(waiver,)), keys, waivers=(waiver,))

    assert find_faults(case) == []
    assert find_faults(replace(case, now=NOW + datetime.timedelta(days=1))) == [
        "profile local: AB-001: its waiver expired on 2026-11-23 (somebody: being mended)"
    ]


def test_a_waiver_of_the_reports_own_is_none(keys: tuple[Path, Path]) -> None:
    """Only this tree's waivers count, word for word: a report could bring any."""
    failed = run(*GREEN[1:], record("AB-001", Outcome.FAILED, message="boom"))
    waiver = Waiver("AB-001", "*", "being mended", "somebody", LAST_DAY)
    report = make_report(failed, waivers=(waiver,))
    longer = replace(waiver, until=datetime.date(2099, 1, 1))

    for known in ((), (longer,), (replace(waiver, profile="vm"),), (replace(waiver, clause="AB-002"),)):
        assert find_faults(make_case(report, keys, waivers=known)) == [
            "profile local: AB-001: waived by what is not in this tree's waivers (somebody: being mended)"
        ]


def test_a_host_is_what_its_profile_asks_of_it(keys: tuple[Path, Path]) -> None:
    """Every fact of the profile was looked at, before and after; what boots from a box names it; no other hosts."""

    def faults_of(name: str, host: Host | None) -> list[str]:
        case = make_case(make_report(run(*GREEN, profile=name)), keys)
        hosts = {} if host is None else {name: host}
        return find_faults(replace(case, hosts=hosts, policy=replace(case.policy, profiles=(name,))))

    more = {**FACTS, "enforcing": FACTS["fact"]}
    assert faults_of("local", Host((), more, boxed=False)) == [
        "profile local: INVALID: not looked at before the clauses: enforcing",
        "profile local: INVALID: not looked at after the clauses: enforcing",
    ]
    refuses = {"fact": replace(FACTS["fact"], exit_code=None)}
    assert faults_of("local", Host((), refuses, boxed=False)) == [
        "profile local: INVALID: proven before the clauses by an exit code 0: fact",
        "profile local: INVALID: proven after the clauses by an exit code 0: fact",
    ]
    assert "profile vm: it does not say the digest of its box" in faults_of("vm", Host((), FACTS, boxed=True))
    assert "profile vm: no host of this tree has this name" in faults_of("vm", None)


def test_a_clause_is_judged_by_this_trees_tests(keys: tuple[Path, Path]) -> None:
    """By all that name it and nothing else, in each mode of the host, with evidence."""
    case = make_case(make_report(), keys)

    def faults_of(**changes: Any) -> list[str]:
        return find_faults(replace(case, **changes))

    more = {**case.tests, "test_b.py::test_too": ("AB-001",)}
    assert faults_of(tests=more) == ["profile local: AB-001: not judged by test_b.py::test_too"]
    less = {name: named for name, named in case.tests.items() if named != ("AB-001",)}
    assert faults_of(tests=less) == [
        "profile local: AB-001: judged by what is no test of it: test_a.py::test_AB-001"
    ]
    both = frozenset({"test_a.py::test_AB-002"})
    assert faults_of(modal=both) == [
        "profile local: AB-002: test_a.py::test_AB-002 did not run in the mode direct, mapped"
    ]
    direct = {"local": Host(("no-user-namespaces",), FACTS, boxed=False)}
    node = "conformance/test_a.py::test_AB-002[init-direct]"
    named = make_case(changed(set_in("clauses", 1, "tests", 0, "node", node)), keys)
    assert find_faults(replace(named, modal=both, hosts=direct)) == []
    assert find_faults(replace(named, modal=both)) == [
        "profile local: AB-002: test_a.py::test_AB-002 did not run in the mode mapped"
    ]


def test_a_case_is_judged_in_each_mode(keys: tuple[Path, Path]) -> None:
    """Not only the test: one case in one mode and another in the other are half of what had to be."""

    def faults_of(*words: str) -> list[str]:
        records = [
            replace(record("AB-001", Outcome.PASSED), node=f"conformance/test_a.py::test_AB-001[{word}]")
            for word in words
        ]
        case = make_case(make_report(run(*GREEN[1:], *records)), keys)
        return find_faults(replace(case, modal=frozenset({"test_a.py::test_AB-001"})))

    assert faults_of("easy-mapped", "easy-direct", "direct-hard", "mapped-hard") == []
    assert faults_of("easy-mapped", "hard-direct") == [
        "profile local: AB-001: test_a.py::test_AB-001 did not run in the mode direct, mapped"
    ]
    assert faults_of("easy-mapped", "easy-direct", "hard-direct") == [
        "profile local: AB-001: test_a.py::test_AB-001 did not run in the mode mapped"
    ]


def test_the_planted_faults_are_judged(keys: tuple[Path, Path]) -> None:
    """Of the same wheel, by this kit, not long ago; every claim of this tree, and every clause."""

    def faults_of(**changes: Any) -> list[str]:
        return find_faults(make_case(make_report(controls=(account(**changes),)), keys))

    assert faults_of(wheel_sha256="0" * 64) == ["planted faults: local: it is about another wheel"]
    (fault,) = faults_of(kit={"sha256": "0" * 64})
    assert fault.startswith("planted faults: local: another kit judged")
    (fault,) = faults_of(planted_sha256="0" * 64)
    assert (
        fault
        == "planted faults: local: its faults were planted into another package or shim than this tree's"
    )
    assert faults_of(kit={"sha256": KIT}) == ["planted faults: local: the kit names no commit"]
    (fault,) = faults_of(finished="2026-11-01T00:00:00Z")
    assert fault.startswith("planted faults: local: expired: it finished on 2026-11-01")
    assert faults_of(profile="elsewhere") == [
        "planted faults: elsewhere: no host of this tree has this name",
        "planted faults: elsewhere: the report does not judge this host, and so nothing that is red there",
    ]
    assert faults_of(verdicts={"always-fails": {"AB-001": "FAIL", "AB-002": "PASS"}}) == [
        "planted faults: local: always-fails did not turn AB-002 red",
        "planted faults: 1 claims untried: CD-003 of always-fails",
        "planted faults: 2 clauses unproven: AB-002, CD-003",
    ]
    red = dict.fromkeys(CATALOGUE, "FAIL")
    assert faults_of(verdicts={"always-fails": red, "strange": red}) == [
        "planted faults: local: 1 faults are not this tree's: strange"
    ]
    (fault,) = find_faults(make_case(make_report(controls=()), keys))
    assert "no account of them (ci/nox -s report -- merge REPORT --controls CONTROLS -o DIRECTORY)" in fault


def test_a_wheel_of_another_tree_is_refused(keys: tuple[Path, Path]) -> None:
    """Kit and faults are this tree's: a wheel from before the last change was judged by them all the same."""
    case = replace(
        make_case(make_report(), keys), wheel_foreign=("locald/a.py differs", "it lacks locald/b.py")
    )
    assert find_faults(case) == [
        "the wheel was not built from this tree: locald/a.py differs, it lacks locald/b.py"
    ]


def test_a_fault_is_planted_where_it_can_be_seen(keys: tuple[Path, Path]) -> None:
    """What one host of the policy cannot show has to be shown on another that can; together the accounts are whole."""
    claimed = {
        name: replace(each, controls=("always-fails", "of-others")) for name, each in CATALOGUE.items()
    }

    def faults_of(
        profiles: tuple[str, ...], *accounts: Json, judged: tuple[str, ...] = ("local",)
    ) -> list[str]:
        runs = [run(*GREEN, profile=name) for name in judged]
        case = make_case(make_report(*runs, controls=accounts), keys)
        found = find_faults(replace(case, catalogue=claimed, policy=replace(case.policy, profiles=profiles)))
        return [fault for fault in found if fault.startswith("planted")]

    assert faults_of(("local",), account()) == []
    assert faults_of(("local", "vm"), account()) == [
        "planted faults: 3 claims untried: AB-001 of of-others, AB-002 of of-others, CD-003 of of-others"
    ]
    there = account(profile="vm", verdicts={"of-others": dict.fromkeys(CATALOGUE, "FAIL")})
    assert faults_of(("local", "vm"), account(), there, judged=("local", "vm")) == []
    # Red there without a fault, perhaps.
    assert faults_of(("local", "vm"), account(), there) == [
        "planted faults: vm: the report does not judge this host, and so nothing that is red there"
    ]


@functools.cache
def good_case() -> Case:
    """Return one good case for all examples."""
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as name:
        return make_case(make_report(), write_keys(Path(name), "good"))


@given(st.data())
def test_any_changed_byte_of_wheel_or_report_is_detected(data: st.DataObject) -> None:
    """The evidence is part of the report: a changed byte of either, or of the wheel, is refused."""
    case = good_case()
    part = data.draw(st.sampled_from(["wheel", "report"]))
    content = bytearray(getattr(case, part))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    changes: dict[str, Any] = {part: bytes(content)}
    assert find_faults(replace(case, **changes))


@pytest.mark.parametrize("name", ["index.html", "junit.xml"])
def test_a_page_that_was_changed_is_refused(name: str, keys: tuple[Path, Path]) -> None:
    """People read the page, not the JSON; where it is absent nobody can be misled by it."""
    case = make_case(make_report(), keys)
    fault = f"signature: {name} beside the report is not the one that was signed"
    assert find_faults(replace(case, rendered={**case.rendered, name: b"all is well"})) == [fault]
    assert find_faults(replace(case, rendered={})) == []


def test_a_page_that_was_not_signed_is_refused(keys: tuple[Path, Path]) -> None:
    """Also where the statement names none."""
    case = make_case(make_report(), keys)
    content = sign(make_statement(make_report(), case.report, expires=EXPIRES), keys[0])
    assert len(find_faults(replace(case, envelope=content))) == len(case.rendered)


def test_every_byte_of_the_evidence_counts() -> None:
    """Not a sample: each byte of one piece of evidence, flipped."""
    case = good_case()
    begin = case.report.index(b'"evidence": [\n')
    for place in range(begin, case.report.index(b"]", begin + 600)):
        content = bytearray(case.report)
        content[place] ^= 1
        assert find_faults(replace(case, report=bytes(content))), place


@given(st.data())
def test_a_changed_envelope_says_the_same_or_is_refused(data: st.DataObject) -> None:
    """White space and the loose end of base64 may change; what was signed may not."""
    case = good_case()
    assert case.envelope is not None
    content = bytearray(case.envelope)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    if find_faults(replace(case, envelope=bytes(content))):
        return
    assert open_envelope(bytes(content), list(case.keys)) == open_envelope(case.envelope, list(case.keys))


def test_other_keys_are_refused_by_name(tmp_path: Path) -> None:
    """No key, a public one where a private one is needed, a missing file."""
    secret, public = write_keys(tmp_path, "a")
    for path, match in ((public, "not a private key"), (tmp_path / "b", "No such file")):
        with pytest.raises(StatementError, match=match):
            sign({}, path)
    for path, match in ((secret, "not a public key"), (tmp_path / "b", "No such file")):
        with pytest.raises(StatementError, match=match):
            read_public_key(path)


def test_the_policy_of_releases_is_in_order(tmp_path: Path) -> None:
    """It names profiles that exist; a malformed one is no policy."""
    assert set(read_policy().profiles) <= set(vms.names())
    text = POLICY.read_text("utf-8")
    for number, broken in enumerate(
        (
            text + "more = 1\n",
            text.replace("14", '"14"'),
            text.replace("14", "9999999999"),
            "profiles = 1",
            "=",
        )
    ):
        path = tmp_path / f"{number}.toml"
        path.write_text(broken)
        with pytest.raises(PolicyError, match=str(path)):
            read_policy(path)
