"""What reads the reports of the fuzzer and of cargo-mutants says what they said."""

from ci import fuzz, mutants

REPORT = """
#2 INITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 26Mb
#78366 DONE cov: 504 ft: 1621 corp: 433/11547b lim: 84 exec/s: 7124 rss: 34Mb
stat::number_of_executed_units: 78366
"""
CRASH = """
thread '<unnamed>' (16204) panicked at src/targets/plan.rs:74:9:
host id 0 is mapped
==16204== ERROR: libFuzzer: deadly signal
SUMMARY: libFuzzer: deadly signal
Test unit written to /w/policy-crash-7ca6
stat::number_of_executed_units: 1392
"""
FILES = ("src/policy.rs",)


def test_a_run_is_read_by_its_last_line() -> None:
    """Figures are those at the end."""
    figures = fuzz.read_figures(REPORT, "json", 10.0, failed=False)
    assert (figures.execs, figures.execs_per_second, figures.edges) == (78366, 7836, 504)
    assert (figures.features, figures.corpus, figures.finding) == (1621, 433, None)


def test_a_finding_names_the_assertion_and_the_input() -> None:
    """One line with all that it takes to try it again."""
    finding = fuzz.read_figures(CRASH, "policy", 1.0, failed=True).finding
    assert finding == "host id 0 is mapped (plan.rs:74); input: /w/policy-crash-7ca6"


def test_a_fuzzer_that_does_not_start_is_a_finding() -> None:
    """Its own words, for want of better ones."""
    assert fuzz.read_figures("no such file\n", "json", 0.1, failed=True).finding == "no such file"


def outcomes(*missed: str) -> dict[str, list[str]]:
    """Return a run that caught one mutant and missed these."""
    return {
        "caught": ["src/policy.rs:1:1: replace a"],
        "missed": list(missed),
        "timeout": [],
        "unviable": [],
    }


def test_a_survivor_needs_a_reason() -> None:
    """And the reason holds wherever the line has moved to, as often as it says."""
    mutant = "src/policy.rs:{}:9: replace > with >= in path"
    entry: dict[str, object] = {"mutant": "src/policy.rs: replace > with >= in path", "reason": "because"}
    once, twice = outcomes(mutant.format(3)), outcomes(mutant.format(3), mutant.format(7))
    assert mutants.judge(once, [], FILES) == [
        "no test notices: src/policy.rs: replace > with >= in path (times 1)"
    ]
    assert mutants.judge(once, [entry], FILES) == []
    assert mutants.judge(twice, [entry], FILES) != []
    assert mutants.judge(twice, [{**entry, "count": 2}], FILES) == []


def test_a_reason_needs_a_survivor() -> None:
    """An entry that is no longer true is an error, if its file was looked at; one without a reason always."""
    stale: dict[str, object] = {"mutant": "src/policy.rs: replace b", "reason": "because"}
    elsewhere: dict[str, object] = {"mutant": "src/json.rs: replace b", "reason": "because"}
    assert mutants.judge(outcomes(), [stale], FILES) == [
        "shim/mutants.toml: src/policy.rs: replace b is noticed now (times 1)"
    ]
    assert mutants.judge(outcomes(), [elsewhere], FILES) == []
    assert mutants.judge(outcomes(), [{"mutant": "src/json.rs: replace b"}], FILES) != []


def test_a_run_that_caught_nothing_did_not_work() -> None:
    """Green for want of mutants is not green."""
    nothing: dict[str, list[str]] = {"caught": [], "missed": [], "timeout": [], "unviable": []}
    assert mutants.judge(nothing, [], FILES) != []
