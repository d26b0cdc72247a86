"""What is alike, what differs for a reason, and what makes the comparison red."""

import pytest

from conformance import clauses
from conformance.likeness import (
    Departure,
    DepartureError,
    find_faults,
    name_all,
    parse_departures,
    read_departures,
    render,
    see_devices,
    see_hidden,
    see_hosts,
    see_mounts,
    see_namespaces,
    see_rights,
    see_user,
)
from conformance.observation import parse_facts
from conformance.oracle import TRAIT

KNOWN = parse_departures(
    '[["REF-001"]]\nwhat = "container"\nlocald = "absent"\npodman = "podman"\nwhy = "so"\n'
    '[["REF-001"]]\nwhat = "HOST*"\nlocald = "absent"\npodman = "[a-z]+"\nwhy = "so"\nmodes = ["mapped"]\n'
)
FACTS = """
== environ
HOME=/srv
== process
cwd /srv
gid 998
umask 22
== status
Uid:\t999\t999\t999\t999
Gid:\t998\t998\t998\t998
Groups:\t998 50
CapInh:\t0000000000000000
CapPrm:\t0000000000000001
CapEff:\t0000000000000001
CapBnd:\t00000000800405fb
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
== mountinfo
1 2 0:3 / / rw,nosuid - overlay overlay rw
2 1 0:4 / /proc ro,nosuid,nodev,noexec - proc proc rw
3 1 8:1 /x /etc/hosts rw,relatime - tmpfs tmpfs rw
4 1 0:9 / /proc/keys ro - tmpfs tmpfs rw
5 1 0:8 / /dev rw,nosuid - tmpfs tmpfs rw
== dev
. 40755 0 0 0:0
null 20666 0 0 1:3
stdin 120777 0 0 0:0
shm 41777 0 0 0:0
== masked
/proc/keys empty
/proc/kcore OPEN
/proc/acpi absent
== namespaces
mnt mnt:[1]
net net:[2]
== attempts
mount 1
chroot 0
== end
"""


def faults(ours: dict[str, str], theirs: dict[str, str], clause: str = "REF-001") -> list[str]:
    """Return the faults in mapped mode."""
    return find_faults(clause, "mapped", ours, theirs, KNOWN)


ALIKE = {"PATH": "/bin"}
THEIRS = ALIKE | {"container": "podman", "HOSTNAME": "guest"}


def test_alike_or_for_a_reason() -> None:
    """Nothing is told."""
    assert faults(ALIKE, THEIRS) == []


def test_a_difference_without_a_reason_is_a_fault() -> None:
    """Another value, and a name that only one side has."""
    assert faults(ALIKE | {"A": "1"}, THEIRS | {"A": "2", "B": ""}) == [
        "A: locald '1', podman '2': different for no reason",
        "B: locald 'absent', podman '': different for no reason",
    ]


def test_a_reason_counts_for_its_own_clause_only() -> None:
    """A difference in the environment is no excuse for one in the arguments."""
    assert faults({}, {"container": "podman"}, "REF-002") == [
        "container: locald 'absent', podman 'podman': different for no reason"
    ]


def test_a_reason_is_for_the_values_that_it_names() -> None:
    """Another difference at the same place is another matter."""
    assert faults(ALIKE, THEIRS | {"container": "docker"}) == [
        "container: locald 'absent', podman 'docker': different for another reason than the one that is given"
    ]


def test_a_reason_that_nothing_needs_is_a_fault() -> None:
    """Where both became alike, and where nobody shows the thing any more."""
    assert faults(ALIKE | {"container": "podman"}, THEIRS) == [
        "container: alike (podman), and a reason says that it is not"
    ]
    assert faults(ALIKE, ALIKE | {"container": "podman"}) == [
        "HOST*: a reason, and nothing of that name was seen"
    ]


def test_a_glob_needs_every_name_that_it_covers() -> None:
    """One that is alike among them is told."""
    assert faults(ALIKE | {"HOSTTYPE": "x"}, THEIRS | {"HOSTTYPE": "x"}) == [
        "HOSTTYPE: alike (x), and a reason says that it is not"
    ]


def test_a_reason_may_be_of_one_mode() -> None:
    """In the other it is none."""
    assert find_faults("REF-001", "direct", ALIKE, THEIRS, KNOWN) == [
        "HOSTNAME: locald 'absent', podman 'guest': different for no reason"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[A]", "departures: "),
        ('[["A"]]\nwhat = "x"\nlocald = "1"\npodman = "2"\n', "why"),
        ('[["A"]]\nwhat = "x"\nlocald = "1"\npodman = "2"\nwhy = ""\n', "empty"),
        ('[["A"]]\nwhat = "x"\nlocald = "("\npodman = "2"\nwhy = "so"\n', "locald: "),
        ('[["A"]]\nwhat = "x"\nlocald = "1"\npodman = "2"\nwhy = "so"\nmodes = ["auto"]\n', "modes"),
        ('[["A"]]\nwhat = "x"\nlocald = "1"\npodman = "2"\nwhy = "so"\nmode = "mapped"\n', "needs"),
        ('[["A"]]\nwhat = "x"\nlocald = "1"\npodman = "2"\nwhy = "so"\n' * 2, "twice"),
    ],
)
def test_a_bad_file_is_refused(text: str, said: str) -> None:
    """By what is wrong with it."""
    with pytest.raises(DepartureError, match=said):
        parse_departures(text)


def test_the_departures_of_the_tree_are_about_its_clauses() -> None:
    """Those that are judged beside podman; a reason for another clause would be read by nobody."""
    catalogue = clauses.read_catalogue()
    for departure in read_departures():
        assert f"@{TRAIT}" in catalogue[departure.clause].profiles, departure


def test_what_is_seen() -> None:
    """Each view says in words what two engines can be compared by."""
    facts = parse_facts(FACTS)

    assert see_user(facts) == {
        "uid": "999/999/999/999",
        "gid": "998/998/998/998",
        "groups": "50",
        "HOME": "/srv",
    }
    assert see_mounts(facts) == {
        "mount /": "files nosuid",
        "mount /proc": "proc ro nosuid nodev noexec",
        "mount /etc/hosts": "files",
        "mount /dev": "tmpfs nosuid",
    }
    assert see_devices(facts) == {
        "dev null": "character 1:3 666",
        "dev stdin": "link",
        "dev shm": "directory 1777",
    }
    assert see_hidden(facts) == {
        "masked /proc/keys": "hidden",
        "masked /proc/kcore": "OPEN",
        "masked /proc/acpi": "hidden",
    }
    assert see_namespaces(facts, {"mnt": "mnt:[9]", "net": "net:[2]"}) == {
        "namespace mnt": "own",
        "namespace net": "host's",
    }
    rights = see_rights(facts)
    assert (rights["capabilities Bnd"], rights["no_new_privs"], rights["umask"]) == ("800405fb", "1", "22")
    assert (rights["may mount"], rights["may chroot"]) == ("refused", "allowed")


def test_a_name_has_the_addresses_of_all_lines() -> None:
    """Whatever stands between the words, and without the comments."""
    text = "127.0.0.1 localhost guest # both\n::1\tlocalhost\n\n# 1.2.3.4 nobody\n"

    assert see_hosts(text) == {"address of localhost": "127.0.0.1 ::1", "address of guest": "127.0.0.1"}


def test_a_case_is_part_of_the_name() -> None:
    """So that two containers are compared at once."""
    assert name_all("bare", {"cwd": "/"}) == {"bare: cwd": "/"}


def test_the_page_has_every_clause() -> None:
    """Also one without a difference; a bar would end a cell of the table."""
    entry = Departure("REF-001", "x", "a|b", "c", "so", ("mapped",))
    page = "\n".join(render([entry], {"REF-001": "One.", "REF-002": "Two."}))

    assert "| `x` (mapped) | `a\\|b` | `c` | so |" in page
    assert page.endswith("## REF-002\n\nTwo.\n\nNo difference.\n")
