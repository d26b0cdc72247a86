"""The policy's text: read as the manual's examples say, edited so that nothing of an administrator's is lost."""

import re
from pathlib import Path

import pytest

from locald import policy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "manual" / "reference" / "policy.md"
ANN, BOB, DEV = policy.Account(1000, "ann"), policy.Account(1001, "bob"), policy.Account(50, "dev")
EXAMPLES = re.findall(r"^```policy ?(.*)\n((?:.*\n)*?)```$", PAGE.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("outcome", "text"), EXAMPLES)
def test_the_manuals_examples_are_read_as_it_says(outcome: str, text: str) -> None:
    """The shim's own tests read the same ones."""
    if outcome:
        with pytest.raises(policy.PolicyFault, match=re.escape(outcome)):
            policy.parse(text)
    else:
        assert policy.parse(text)


def test_there_are_examples() -> None:
    """Of both kinds, and every key is in one."""
    taken = [text for outcome, text in EXAMPLES if not outcome]
    assert len(taken) >= 4
    assert len(EXAMPLES) - len(taken) >= 13
    assert {line.key for text in taken for line in policy.parse(text)} == set(policy.KEYS)
    table = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert table == list(dict.fromkeys(table))
    assert set(table) == set(policy.KEYS)


@pytest.mark.parametrize(
    "line",
    [
        "bind-ports = 80 080",
        "bind-ports = 65536",
        "bind-ports = 0",
        "bind-ports = 80 none",
        f"bind-ports = {' '.join(map(str, range(1, 66)))}",
        "bind-addresses = ::1 0:0:0:0:0:0:0:1",
        "bind-addresses = ::1%lo",
        "bind-addresses = fe80::1",
        "bind-addresses = ff02::1",
        "bind-addresses = 224.0.0.1",
        "bind-addresses = 255.255.255.255",
        "bind-addresses = ::ffff:127.0.0.1",
        "bind-addresses = 127.0.0.1:80",
        "bind-addresses = 127.1",
        "bind-addresses = 127.0.0.01",
        "modes = mapped mapped",
        "modes = Mapped",
        "modes =",
        "allow-user = 4294967295",
        "allow-user = -1",
        "allow-group = +x",
        "allow-user = a:b",
        "min-shim = 1.2.3-rc1",
        "min-shim = 1.2.3.4",
        "max-containers = -1",
        "version\v= 1",
        "\x1c",
    ],
)
def test_what_the_shim_refuses_is_refused(line: str) -> None:
    """The lists are those of the shim's own tests."""
    with pytest.raises(policy.PolicyFault, match=r"line 2: "):
        policy.parse(f"version = 1\n{line}\n")


def test_long_ones_are_refused() -> None:
    """At the same byte as in the shim."""
    text = "version = 1\n" + "#" * (policy.MAX_BYTES - 12)
    assert policy.parse(text)
    with pytest.raises(policy.PolicyFault, match="65536 bytes"):
        policy.parse(text + "#")


def test_accounts_are_added_once() -> None:
    """By number or by name; what is there stays, byte for byte."""
    made = policy.add_accounts("", [ANN, ANN], [DEV])
    assert made.endswith("version = 1\nallow-user = 1000  # ann\nallow-group = 50  # dev\n")
    assert policy.add_accounts(made, [ANN], [DEV]) == made
    own = "# mine\nversion=1\nallow-user = ann # she\nmax-containers = 3"
    assert policy.add_accounts(own, [ANN], []) == own
    assert policy.add_accounts(own, [ANN, BOB], []) == own + "\nallow-user = 1001  # bob\n"
    # A group of the same number is another thing.
    assert policy.add_accounts(made, [], [policy.Account(1000, "ann")]).endswith(
        "allow-group = 1000  # ann\n"
    )


def test_the_minimum_is_raised_in_its_line() -> None:
    """Blanks, comments and other lines stay; bytes that are no UTF-8 too."""
    own = policy.decode(b"# caf\xe9\nversion = 1\n  min-shim =\t0.1.0 # since May\nallow-user = 5")
    raised = policy.demand_shim(own, "0.10.0", "raise")
    assert policy.encode(raised) == policy.encode(own).replace(b"0.1.0", b"0.10.0")
    assert policy.demand_shim(raised, "0.10.0", "raise") == raised
    assert policy.demand_shim("version = 1\n", "1.2.3", "raise") == "version = 1\nmin-shim = 1.2.3\n"
    assert policy.demand_shim("version = 1\n", "1.2.3", "keep") == "version = 1\n"
    assert policy.demand_shim(own, "0.2.0", "keep") == own


def test_the_minimum_is_lowered_by_word_alone() -> None:
    """`TooNew` else: a shim that would refuse itself is not set up."""
    own = "version = 1\nmin-shim = 0.10.0\n"
    hows: list[policy.MinShim] = ["raise", "keep"]
    for how in hows:
        with pytest.raises(policy.TooNew):
            policy.demand_shim(own, "0.9.9", how)
    assert policy.demand_shim(own, "0.9.9", "lower") == "version = 1\nmin-shim = 0.9.9\n"
    with pytest.raises(policy.PolicyFault):
        policy.demand_shim(own, "None", "lower")
