"""ID: who the payload is, inside and outside, and whose the files are that it makes."""

from typing import Any

import pytest

from conformance.hostile import USERS
from conformance.runtimes import Caller, Config, Mode
from conformance.subject import Subject

OTHER = 999
# The group that has no number inside: proc_sys_kernel(5), overflowgid.
OVERFLOW = "65534"


def as_user(uid: int, gid: int, *, caller: Caller | None = None) -> Any:
    """Return a change that runs the payload as `uid`:`gid`; with `caller`, these container ids are his."""

    def change(config: Config) -> None:
        config["process"]["user"] = {"uid": uid, "gid": gid}
        if caller is not None:
            # What the spec may choose: X, the container id that is the caller. The shim knows the host side.
            config["linux"]["uidMappings"] = [{"containerID": uid, "hostID": caller.uid, "size": 1}]
            config["linux"]["gidMappings"] = [{"containerID": gid, "hostID": caller.gid, "size": 1}]

    return change


def with_map(table: str, entries: list[dict[str, int]]) -> Any:
    """Return a change that asks for `entries` as a map, that of uids or that of gids."""
    return lambda config: config["linux"].update({table: entries})


def owners(result: Any) -> dict[str, str]:
    """Return the owners of new files in the bundle, by path."""
    return {entry.split(" ")[0]: entry.split(" ")[1] for entry in result.new_files}


@pytest.mark.clause("ID-001")
def test_the_map_of_a_caller_with_subordinate_ids(subject: Subject) -> None:
    """Container id 0 is the caller; 1 and up are his subordinate ids in their order; no other id is mapped."""
    caller = subject.caller_with_ranges("plain")
    facts = subject.see("mapped").facts

    assert facts.id_map("uid_map") == [(0, caller.uid, 1), (1, *caller.subuids)]
    assert facts.id_map("gid_map") == [(0, caller.gid, 1), (1, *caller.subgids)]


@pytest.mark.alone
@pytest.mark.clause("ID-001")
def test_uids_and_gids_have_maps_of_their_own(subject: Subject) -> None:
    """The two tables need not agree; those of the kit's users do."""
    caller = subject.caller("bare")
    ranges = {"subuid": (3_000_000, 100), "subgid": (4_000_000, 50)}
    keep, restore = (
        "".join(
            template.format(table=table, first=first, count=count) for table, (first, count) in ranges.items()
        )
        for template in (
            "cp -p /etc/{table} /etc/{table}.kit; echo bare:{first}:{count} >> /etc/{table}\n",
            "cat /etc/{table}.kit > /etc/{table}; rm /etc/{table}.kit\n",
        )
    )
    (result,) = subject.call(subject.container(mode="mapped", user="bare", before=keep, after=restore))

    assert result.facts.id_map("uid_map") == [(0, caller.uid, 1), (1, *ranges["subuid"])], result
    assert result.facts.id_map("gid_map") == [(0, caller.gid, 1), (1, *ranges["subgid"])], result


@pytest.mark.clause("ID-002")
def test_the_map_of_a_caller_without(subject: Subject) -> None:
    """Without subordinate ids only the caller is mapped, and groups cannot be changed."""
    caller = subject.caller("bare")
    facts = subject.see("mapped", user="bare").facts

    assert facts.id_map("uid_map") == [(0, caller.uid, 1)]
    assert facts.id_map("gid_map") == [(0, caller.gid, 1)]
    assert facts.text("setgroups") == "deny"


@pytest.mark.clause("ID-003")
def test_the_spec_chooses_which_id_is_the_caller(subject: Subject) -> None:
    """With X = 999, container id 999 is the caller and the other ids keep their order around it."""
    caller = subject.caller_with_ranges("plain")
    result = subject.run(mode="mapped", change=as_user(OTHER, OTHER, caller=caller))

    assert (result.facts.process["uid"], result.facts.process["gid"]) == (str(OTHER), str(OTHER)), result
    for name, own, (start, count) in (
        ("uid_map", caller.uid, caller.subuids),
        ("gid_map", caller.gid, caller.subgids),
    ):
        assert sorted(result.facts.id_map(name)) == [
            (0, start, OTHER),
            (OTHER, own, 1),
            (OTHER + 1, start + OTHER, count - OTHER),
        ], name


@pytest.mark.clause("ID-004")
def test_no_other_map_is_to_be_had(subject: Subject) -> None:
    """A map to root, to another user, of several entries or of a longer range is refused, of gids as of uids."""
    caller = subject.caller()

    def make_maps(own: int) -> tuple[list[dict[str, int]], ...]:
        return (
            [{"containerID": 0, "hostID": 0, "size": 1}],
            [{"containerID": 0, "hostID": own + 1, "size": 1}],
            [{"containerID": 0, "hostID": own, "size": 2}],
            [
                {"containerID": 0, "hostID": own, "size": 1},
                {"containerID": 1, "hostID": 100000, "size": 10},
            ],
            [{"containerID": 0, "hostID": 4294967295, "size": 1}],
        )

    changes = [
        with_map(table, entries)
        for table, own in (("uidMappings", caller.uid), ("gidMappings", caller.gid))
        for entries in make_maps(own)
    ]
    for result in subject.call(*(subject.container(mode="mapped", change=change) for change in changes)):
        assert result.exit_code == 125, result
        assert result.code in ("map.entry", "config.type"), result


@pytest.mark.clause("ID-005")
def test_direct_is_the_caller(subject: Subject) -> None:
    """In direct mode uid and gid are the caller's, real, effective, saved and filesystem ids alike."""
    caller = subject.caller()
    status = subject.see("direct").facts.status

    assert status["Uid"].split() == [str(caller.uid)] * 4
    assert status["Gid"].split() == [str(caller.gid)] * 4


@pytest.mark.clause("ID-013")
def test_direct_keeps_the_groups(subject: Subject) -> None:
    """A group by which a file is closed to the caller cannot be dropped (CVE-2014-8989)."""
    for user in USERS:
        assert subject.see("direct", user=user).facts.status["Groups"].split() == subject.groups_of(user), (
            user
        )


@pytest.mark.clause("ID-014")
def test_mapped_without_subordinate_gids_keeps_the_groups(subject: Subject) -> None:
    """Inside only the caller's first group has a number, his others are nobody's; but he is in them still."""
    own = str(subject.caller("bare").gid)
    inside = ["0" if group == own else OVERFLOW for group in subject.groups_of("bare")]

    assert subject.see("mapped", user="bare").facts.status["Groups"].split() == inside


@pytest.mark.clause("ID-015")
def test_mapped_with_subordinate_gids_has_the_configs_groups(subject: Subject) -> None:
    """Whoever was granted gids may change his groups: they are those of additionalGids, and none if it has none."""
    # The caller has groups that could have been kept.
    assert subject.groups_of("plain")
    asked = subject.run(
        mode="mapped", change=lambda config: config["process"]["user"].update(additionalGids=[5, 7])
    )

    assert asked.facts.status["Groups"].split() == ["5", "7"], asked
    assert subject.see("mapped").facts.status["Groups"].split() == []


@pytest.mark.clause("ID-006")
def test_direct_refuses_to_be_somebody_else(subject: Subject) -> None:
    """In direct mode another process.user than the caller is refused, root included."""
    caller = subject.caller()
    pairs = ((0, 0), (caller.uid, 0), (0, caller.gid), (caller.uid + 1, caller.gid))
    for result in subject.call(
        *(subject.container(mode="direct", change=as_user(uid, gid)) for uid, gid in pairs)
    ):
        assert result.outcome == (125, "user.unmappable"), result


@pytest.mark.clause("ID-007")
def test_an_unmapped_user_is_refused(subject: Subject) -> None:
    """In mapped mode a process.user that the caller's ids do not reach is refused."""
    far, bare = subject.call(
        subject.container(mode="mapped", change=as_user(1_000_000, 0)),
        subject.container(mode="mapped", user="bare", change=as_user(1, 1)),
    )

    assert far.outcome == bare.outcome == (125, "user.unmapped"), (far, bare)


@pytest.mark.clause("ID-008")
def test_files_in_a_bind_belong_to_the_caller(subject: Subject, mode: Mode) -> None:
    """What process.user writes into a bind is the caller's on the host, for USER 0 and, mapped, for USER 999."""
    caller = subject.caller()
    bind = {"destination": "/srv", "type": "bind", "source": "{bundle}/shared", "options": ["rbind"]}

    def with_bind(change: Any) -> Any:
        def both(config: Config) -> None:
            change(config)
            config["mounts"].append(bind)

        return both

    changes = [lambda _: None] + ([as_user(OTHER, OTHER, caller=caller)] if mode == "mapped" else [])
    results = subject.call(
        *(
            subject.container(
                *("/observe", "touch", "/srv/made"),
                mode=mode,
                change=with_bind(change),
                files={"shared/mark": {}},
            )
            for change in changes
        )
    )

    for result in results:
        assert result.stdout == "touch 0\n", result
        assert owners(result)["shared/made"] == f"{caller.uid}:{caller.gid}", result.new_files


@pytest.mark.clause("ID-009")
def test_switching_ids_inside(subject: Subject) -> None:
    """In mapped mode root inside may become another mapped id; in direct mode nobody may."""
    names = ["CAP_SETUID", "CAP_SETGID", "CAP_CHOWN"]
    wanted = dict.fromkeys(("bounding", "effective", "permitted"), names)
    mapped = subject.run(mode="mapped", change=lambda config: config["process"].update(capabilities=wanted))
    direct = subject.see("direct")

    assert mapped.facts.attempts["setuid-1"] == 0, mapped
    assert (direct.facts.attempts["setuid-1"], direct.facts.attempts["setuid-0"]) == (1, 1), (
        direct.facts.attempts
    )


@pytest.mark.clause("ID-010")
def test_owners_in_the_root_are_seen_right(subject: Subject) -> None:
    """Files of the caller's subordinate ids appear in a mapped container with their container ids."""
    start, _ = subject.caller_with_ranges("plain").subuids
    result = subject.run(
        *("/observe", "stat", "/srv/one", "/srv/thousand", "/srv/mine"),
        mode="mapped",
        files={f"rootfs/srv/{name}": {} for name in ("one", "thousand", "mine")},
        before=f'chown {start} "$BUNDLE/rootfs/srv/one"; chown {start + 999} "$BUNDLE/rootfs/srv/thousand"',
    )

    assert [line.split()[1] for line in result.stdout.splitlines()] == ["1", "1000", "0"], result


@pytest.mark.clause("ID-012")
def test_what_subordinate_ids_left_is_removed(subject: Subject) -> None:
    """`cleanup` empties the root filesystem of a bundle in the caller's own map; he alone could not."""
    start, _ = subject.caller_with_ranges("plain").subuids
    foreign = '"$BUNDLE/rootfs/srv/left"'
    (result,) = subject.call(
        subject.container(mode="mapped", files={"rootfs/srv/left/file": {}, "rootfs/srv/own": {}})
        | {
            "argv": [subject.runtime.program, "cleanup", "--bundle", "{bundle}"],
            "before": f"chown -R {start + 999} {foreign}; chmod -R go-rwx {foreign}",
            "after": 'ls -A "$BUNDLE/rootfs"',
        }
    )

    assert (result.exit_code, result.after) == (0, ""), result


@pytest.mark.alone
@pytest.mark.clause("ID-011")
def test_a_malformed_line_of_the_caller_is_refused(subject: Subject) -> None:
    """A caller's line in /etc/subuid or /etc/subgid that is malformed, or whose range holds root, is refused."""
    cases = [
        (table, line, code)
        for table in ("subuid", "subgid")
        for line, code in (("abc:10", "subids.malformed"), ("0:65536", "subids.range"))
    ]
    jobs = [
        subject.container(
            mode="mapped",
            user="bare",
            before=f"cp -p /etc/{table} /etc/{table}.kit; echo 'bare:{line}' >> /etc/{table}",
            after=f"cat /etc/{table}.kit > /etc/{table}; rm /etc/{table}.kit",
        )
        for table, line, _ in cases
    ]
    for (_, _, code), result in zip(cases, subject.call(*jobs), strict=True):
        assert result.outcome == (125, code), result
