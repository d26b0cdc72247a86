"""The page as it is written: what was judged, and at once why a host is not green."""

import re

from conformance.rendering.page import find_cause, make_page
from conformance.report import Json, ProfileRun
from conformance.verdicts import Outcome
from tests.unit.conformance.samples import GREEN, account, make_report, proof, record, run, seen

WHEEL = "locald-0.1.0-py3-none-any.whl"


def part(told: ProfileRun) -> Json:
    """Return a host's part of a report."""
    entry: Json = make_report(told)["profiles"][0]
    return entry


def test_the_page_names_what_was_judged() -> None:
    """The wheel, or the runtime that was judged in place of its shim, with its version."""
    ours = make_page(make_report())
    assert f"<title>Green: conformance of {WHEEL}</title>" in ours
    assert f"<h1>Conformance of {WHEEL}</h1>" in ours

    told = run(*GREEN, runtime="crun", subject={"wheel": WHEEL, "runtime_version": "crun version 1.8.1"})
    peer = make_page(make_report(told))
    assert f"<title>Not green: conformance of crun, beside {WHEEL}</title>" in peer
    assert f"<h1>Conformance of crun, beside {WHEEL}</h1>" in peer
    assert "<dd><code>crun version 1.8.1</code></dd>" in peer


def test_a_result_that_says_less_than_it_seems_is_marked() -> None:
    """A machine that was used before, a product that is not the wheel's: in the host's line, and below in words."""
    told = run(*GREEN, subject={"reused": "it was up before the run", "planted": "always-succeeds"})
    page = make_page(make_report(told))
    summary = re.search(r'<details class="host">(.*?)</summary>', page, re.DOTALL)

    assert summary is not None
    assert "<strong>a planted fault, or a measured build</strong>" in summary[1]
    assert "<strong>not a machine of this run</strong>" in summary[1]
    assert "<dd><code>it was up before the run</code></dd>" in page
    assert "<dd><code>always-succeeds</code></dd>" in page
    assert "<strong>" not in make_page(make_report())


def test_why_a_host_is_not_green() -> None:
    """An error of the run, a fact that was not proven, a clause; of a peer what failed before what does not apply."""
    failed = record("AB-002", Outcome.FAILED, message="AssertionError: assert 1 == 2")
    odd = (proof(proven=False),)

    assert find_cause(part(run(*GREEN))) == ""
    assert find_cause(part(run(failed, after=odd, errors=("broken\nmore",)))) == "broken"
    assert find_cause(part(run(failed, after=odd))) == "not proven after the clauses: fact: so it is"
    assert find_cause(part(run(GREEN[0], failed))) == "FAIL AB-002: assert 1 == 2"
    assert find_cause(part(run(GREEN[0]))) == "MISSING AB-002: no test of this clause ran"
    peer = part(run(runtime="crun"))
    assert find_cause(peer) == "NOT-APPLICABLE AB-001: the catalogue: no clause about crun"
    peer["clauses"][1] |= {"verdict": "FAIL", "reason": "assert 1 == 2"}
    assert find_cause(peer) == "FAIL AB-002: assert 1 == 2"


def test_a_host_that_is_not_green_stands_open() -> None:
    """With its cause in the line that is there when it is closed again."""
    page = make_page(make_report(run(*GREEN), run(*GREEN, profile="other", errors=("it <b>broke</b>",))))

    assert page.count('<details class="host">') == 1
    assert page.count('<details class="host" open>') == 1
    assert '<span class="cause bad">it &lt;b&gt;broke&lt;/b&gt;</span>\n      </summary>' in page


def test_the_page_counts_in_english() -> None:
    """One difference, one clause."""
    page = make_page(
        make_report(run(*GREEN, host=seen(taint=["1"])), controls=[account(unproven=["AB-001"])])
    )
    assert "<summary>1 difference</summary>" in page
    assert "<summary>1 clause unproven</summary>" in page


def test_only_what_is_the_same_on_several_hosts_is_folded() -> None:
    """A line of one host would be folded into as long a line, and what is not a PASS is not hidden."""
    assert 'class="fold"' not in make_page(make_report())
    page = make_page(make_report(run(*GREEN), run(*GREEN, profile="other")))
    assert page.count("PASS on 2 hosts") == 2
    page = make_page(make_report(run(*GREEN), run(GREEN[0], profile="other")))
    assert page.count("PASS on 2 hosts") == 1
