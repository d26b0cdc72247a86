"""Profiles are data, read strictly."""

from pathlib import Path
from typing import Any

import pytest

from vms import profile
from vms.errors import ProfileError

PATH = Path("somewhere.toml")


def vm(**changes: Any) -> dict[str, Any]:
    """Return a small valid profile of a virtual machine, with changes; None leaves a key out."""
    data: dict[str, Any] = {
        "says": "a machine",
        "kind": "vm",
        "box": "debian12",
        "kernel_arguments": ["a=b"],
        "memory_mib": 512,
        "cpus": 1,
        "users": ["plain"],
        "facts": [{"id": "true", "says": "it runs", "user": "plain", "command": ["true"]}],
    }
    return {key: value for key, value in (data | changes).items() if value is not None}


def fact(**changes: Any) -> list[dict[str, Any]]:
    """Return the list of one fact, with changes."""
    return [{"id": "a-fact", "says": "so", "user": "root", "command": ["true"]} | changes]


@pytest.mark.parametrize("name", profile.names())
def test_every_profile_of_the_project_is_valid(name: str) -> None:
    """And proves something."""
    assert profile.read(name).facts


@pytest.mark.parametrize("name", profile.names())
def test_a_host_has_the_trait_of_cgroup_v2_if_it_proves_it(name: str) -> None:
    """What is chosen by a trait would otherwise be chosen by somebody's word."""
    found = profile.read(name)
    assert ("cgroup2" in found.traits) == any(fact.id == "cgroup2" for fact in found.facts)


def test_defaults_are_few() -> None:
    """A fact demands success unless it says otherwise; no engine is allowed."""
    parsed = profile.parse(vm(), PATH)

    assert parsed.name == "somewhere"
    assert parsed.allowed_engines == ()
    assert parsed.facts[0].exit_code == 0


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"colour": "red"}, "colour"),
        ({"box": None}, "box"),
        ({"box": ""}, "box"),
        ({"kind": "cloud"}, "kind"),
        ({"memory_mib": "512"}, "memory_mib"),
        ({"memory_mib": 1}, "memory_mib"),
        ({"cpus": True}, "cpus"),
        ({"users": ["nobody"]}, "users"),
        ({"kernel_arguments": "quiet"}, "kernel_arguments"),
        ({"emulated_arguments": "quiet"}, "emulated_arguments"),
        ({"facts": []}, "facts"),
        ({"facts": ["true"]}, "facts"),
        ({"facts": fact(color="red")}, "color"),
        ({"facts": fact(id="Upper Case")}, "id"),
        ({"facts": fact(user="bare")}, "a-fact"),
        ({"facts": fact(command=[])}, "command"),
        ({"facts": fact(script="true")}, "command"),
        ({"facts": fact(stdout="(")}, "stdout"),
        ({"facts": fact(errno="EWHAT")}, "errno"),
        ({"facts": fact(errno="EPERM", stderr="x")}, "errno"),
        ({"facts": fact() + fact()}, "a-fact"),
        ({"sandbox": {}}, "sandbox"),
        ({"traits": ["fast"]}, "traits"),
        ({"watched": ["proc"]}, "watched"),
        ({"python": "python3"}, "python"),
        ({"public": "yes"}, "public"),
        ({"public": True}, "kernel_arguments"),
    ],
)
def test_what_is_not_in_the_schema_is_refused_by_name(changes: dict[str, Any], where: str) -> None:
    """A key that is silently ignored would be a precondition that is not proven."""
    with pytest.raises(ProfileError, match=where):
        profile.parse(vm(**changes), PATH)


def test_a_refusal_is_recognised_by_the_words_of_its_errno() -> None:
    """The exit code that goes with it is the tool's business, so long as it is not 0."""
    parsed = profile.parse(vm(facts=fact(errno="ENOSPC")), PATH).facts[0]

    assert parsed.exit_code is None
    assert parsed.stderr is not None
    assert "space" in parsed.stderr


def test_a_private_view_has_absolute_paths() -> None:
    """It is made of mounts."""
    data = {
        "says": "here",
        "kind": "local",
        "users": ["plain"],
        "facts": fact(),
        "sandbox": {"overlays": ["etc"], "fresh": []},
    }

    with pytest.raises(ProfileError, match="absolute"):
        profile.parse(data, PATH)


def test_an_unknown_name_lists_the_known() -> None:
    """So the message mends itself; a name is never a path."""
    with pytest.raises(ProfileError, match="local"):
        profile.read("../profiles/local")


def test_a_host_without_an_interpreter_says_so() -> None:
    """An empty text would be one that was forgotten."""
    assert profile.parse(vm(), PATH).python == "/usr/bin/python3"
    assert profile.parse(vm(python="none"), PATH).python == ""


def test_a_public_box_has_no_kernel_arguments() -> None:
    """Nobody could give them to it."""
    parsed = profile.parse(vm(public=True, kernel_arguments=None), PATH)

    assert (parsed.public, parsed.kernel_arguments) == (True, ())
