"""What the observer prints is read into facts, and half an answer is none."""

import pytest

from conformance.observation import ObservationError, parse_facts

TEXT = """
== argv
/observe
facts

== process
uid 0
cwd /srv/a b

== mountinfo
22 21 0:20 / /proc rw,nosuid master:3 - proc proc rw
23 22 0:21 / /proc/acpi ro - tmpfs tmpfs ro,size=0k

== uid_map
         0       1000          1

== attempts
mount 1
bpf signal 31

== end
"""


def test_sections() -> None:
    """Tables, maps, mounts and attempts."""
    facts = parse_facts(TEXT)

    assert facts.text("argv") == "/observe\nfacts"
    assert facts.process == {"uid": "0", "cwd": "/srv/a b"}
    assert facts.mount_at("/proc").tags == ("master:3",)
    assert facts.mount_at("/proc/acpi").super_options == {"ro", "size=0k"}
    assert facts.id_map("uid_map") == [(0, 1000, 1)]
    assert facts.attempts == {"mount": 1, "bpf": -1}


def test_half_an_answer_is_a_failure() -> None:
    """Output without its end, and a section that is not there, are failures of the subject."""
    with pytest.raises(ObservationError):
        parse_facts(TEXT.replace("== end", ""))
    with pytest.raises(ObservationError):
        parse_facts("== end\n").lines("argv")
