"""ATK 11 to 17, 40 to 45, 52 and 54: the bundle, its config.json, the names around it, and the end of it all."""

import json
import re
from collections.abc import Mapping
from typing import Final

import pytest

from conformance.hostile import USERS, Corner, Hostile, setting
from conformance.runtimes import Config
from conformance.subject import STRANGER, Job, Result
from conformance.test_bind import ask
from conformance.test_setuid import POLICY, with_policy

# At most, for a config of 0.8 MB.
MOST_KIB: Final = 32 * 1024
MIB: Final = 1 << 20
PATIENCE_S: Final = 15


def texts(hostile: Hostile, *make: Mapping[str, str]) -> list[Job]:
    """Return the jobs of each set of pairs {old: new} that is replaced in the text of a good config: `turns`."""
    jobs = []
    for corner, pairs in hostile.turns(*make):
        text = json.dumps(hostile.job(corner)["bundle"]["config"])
        for old, new in pairs.items():
            assert old in text, old
            text = text.replace(old, new, 1)
        jobs.append(hostile.job(corner, config=text, status=True))
    return jobs


@pytest.mark.clause("ATK-011")
def test_magic_links(hostile: Hostile) -> None:
    """A bundle named through /proc/self/cwd is not found: such links lead where no path leads."""
    jobs = []
    for corner in hostile.corners():
        for name in ("/proc/self/cwd", "/proc/thread-self/cwd"):
            job = hostile.job(corner, status=True)
            job["argv"] = [name if word == "{bundle}" else word for word in job["argv"]]
            jobs.append(job | {"cwd": "{bundle}"})
    hostile.judge_refused("bundle.open", hostile.call(*jobs))
    hostile.twins()


@pytest.mark.clause("ATK-012")
def test_what_config_json_may_be(hostile: Hostile) -> None:
    """A FIFO, a link and a file above a mebibyte are refused at once; a file of a mebibyte is read."""
    makers = (
        'mkfifo -m 666 "$BUNDLE/config.json"',
        'ln -s /etc/passwd "$BUNDLE/config.json"',
        f'head -c {MIB + 1} /dev/zero > "$BUNDLE/config.json"; chmod 644 "$BUNDLE/config.json"',
    )
    jobs = [
        hostile.job(corner, config="", before=maker, limit_s=10, status=True)
        for corner, maker in hostile.turns(*makers)
    ]
    results = hostile.call(*jobs)
    assert not any(result.timed_out for result in results), results
    hostile.judge_refused("bundle.config", results)
    largest = []
    for corner in hostile.corners():
        text = json.dumps(hostile.job(corner, "/observe", "exit", "7")["bundle"]["config"])
        # Filled up to the last byte but for what the agent puts in the place of its words.
        largest.append(hostile.job(corner, config=text.ljust(MIB - 200)))
    assert [result.exit_code for result in hostile.call(*largest)] == [7] * len(largest)


@pytest.mark.clause("ATK-013")
def test_json_that_two_parsers_read_differently(hostile: Hostile) -> None:
    """Deep nesting, a member twice and a member that nobody knows are refused."""
    deep = "[" * 40 + "]" * 40
    codes = {
        "json.depth": {'"mounts": []': f'"mounts": [], "hooks": {deep}'},
        "json.duplicate": {'"hostname"': '"hostname": "a", "hostname"'},
        "config.unknown": {'"mounts"': '"x-new": {"a": 1}, "mounts"'},
    }
    for code, pairs in codes.items():
        hostile.judge_refused(code, hostile.call(*texts(hostile, pairs)))
    hostile.twins()


@pytest.mark.clause("ATK-014")
def test_config_is_read_once(hostile: Hostile) -> None:
    """What was judged is what is used: config.json is opened a single time, and nobody goes back in it."""
    for lines in hostile.traced().values():
        assert_read_once(lines, "config.json")


@pytest.mark.clause("ATK-015")
def test_rootfs_is_opened_once(hostile: Hostile) -> None:
    """From then on the descriptor counts, whatever the name leads to."""
    for lines in hostile.traced().values():
        assert_read_once(lines, "rootfs")


def assert_read_once(lines: list[str], name: str) -> None:
    """Judge that the shim opens `name` once by whatever path, and neither goes back in it nor opens it by its number.

    It alone has the number of its first process, up to the payload; what is read further on is not told from what is
    read again by a descriptor's place, so that is what may not be moved.
    """
    own = [line.split(None, 1)[1] for line in lines if line.split()[0] == lines[0].split()[0]]
    spelt = re.compile(rf'^open\w*\(.*"(?:[^"]*/)?{re.escape(name)}(?:/[^"]*)?".* = (?P<number>\d+)')
    opens = [match for match in map(spelt.match, own) if match]
    # A name that leads to it and is answered by an error was asked for, too.
    asked = [line for line in own if re.match(rf'open\w*\(.*[/"]{re.escape(name)}["/]', line)]
    assert len(opens) == len(asked) == 1, asked
    number = opens[0]["number"]
    again = re.compile(
        rf'^(?:lseek|pread64)\({number},|^open\w*\(.*"/(?:proc/(?:self|thread-self|\d+)|dev)/fd/{number}["/]'
    )
    assert [line for line in own if again.match(line)] == []


@pytest.mark.clause("ATK-016")
def test_a_swapped_mount_target(hostile: Hostile) -> None:
    """rootfs/dev and rootfs/proc are links to a directory outside: refused, and nothing appears there."""
    jobs = [
        hostile.job(
            corner,
            files={"outside/mark": {}},
            before=f'rmdir "$BUNDLE/rootfs/{name}"; ln -s "{outside}" "$BUNDLE/rootfs/{name}"',
            after='ls -A "$BUNDLE/outside"',
            status=True,
        )
        for corner in hostile.corners()
        for name, outside in (("dev", "$BUNDLE/outside"), ("proc", "../outside"))
    ]
    results = hostile.call(*jobs)
    hostile.judge_refused("mount.target", results)
    assert [result.after.split() for result in results] == [["mark"]] * len(results)
    hostile.twins()


@pytest.mark.clause("ATK-017")
def test_container_ids(hostile: Hostile) -> None:
    """An id is a short plain word, for it becomes a file name of root's."""
    words = ("../x", "", ".a", "a/b", "A", "x" * 65, "x" * 300, "a\n", "\udcff")
    jobs = []
    for corner, word in hostile.turns(*words):
        job = hostile.job(corner)
        job["argv"] = [word if part == "{id}" else part for part in job["argv"]]
        jobs.append(job)
    hostile.judge_refused("id.invalid", hostile.call(*jobs))
    hostile.twins()


@pytest.mark.alone
@pytest.mark.clause("ATK-040")
def test_state_is_roots_and_counted(hostile: Hostile) -> None:
    """A state directory that the caller got hold of is not used, and the policy bounds how many containers he has."""

    def taken(corner: Corner) -> Job:
        caller = hostile.subject.caller(corner.user)
        place = f"/run/locald-shim/{caller.uid}"
        # What is above it as the shim itself makes it: it may not have been called yet.
        before = f"install -d -m 700 /run/locald-shim; rm -rf {place}"
        before += f"; install -d -m 700 -o {caller.uid} -g {caller.gid} {place}"
        return hostile.job(corner, before=before, after=f"ls -A {place}; rm -rf {place}")

    for result in hostile.call(*(taken(corner) for corner in hostile.corners())):
        assert result.outcome == (125, "state.failed"), result
        assert result.after == "", result
    before, after = with_policy(
        f"sed -i '/^max-containers/d' {POLICY}; echo 'max-containers = 1' >> {POLICY}"
    )

    def crowded(corner: Corner) -> Job:
        job = hostile.job(corner, "/observe", "wait", init=True, before=before, after=after)
        caller = hostile.subject.caller(corner.user)
        words = [word.format(bundle="$BUNDLE", id="second") if "{" in word else word for word in job["argv"]]
        become = f"setpriv --reuid {caller.uid} --regid {caller.gid} --clear-groups"
        # A second container that is let in would wait, too.
        again = f"timeout {PATIENCE_S} {become} {' '.join(words)} 2>&1 || true".replace(
            " $BUNDLE", ' "$BUNDLE"'
        )
        job["steps"] = [{"expect": "ready"}, {"script": again}, {"signal": 15, "to": "user"}]
        return job

    for result in hostile.call(*(crowded(corner) for corner in hostile.corners())):
        assert result.problem == "", result
        assert "refused [state.quota]" in result.stderr, result
    hostile.twins()


@pytest.mark.clause("ATK-041")
def test_signals_go_by_pidfd(hostile: Hostile) -> None:
    """A pid that was given to another process meanwhile is never signalled: the shim forwards by pidfd."""
    # The job's own process is the tracer, its child the shim.
    forward = "set -- $(cat /proc/$SUBJECT/task/$SUBJECT/children); kill -USR1 $1"
    steps = [{"expect": "ready"}, {"script": forward}, {"expect": "signal 10"}]
    jobs = [
        hostile.job(corner, "/observe", "signals", "1", trace=True, steps=steps)
        for corner in hostile.corners()
    ]
    for result in hostile.call(*jobs):
        assert (result.problem, result.exit_code) == ("", 0), result
        calls = [line.split(None, 1)[1] for line in result.data["trace"] if "SIGUSR1" in line]
        assert [call for call in calls if call.startswith("pidfd_send_signal(")], calls
        assert [call for call in calls if call.startswith("kill(")] == []


@pytest.mark.clause("ATK-042")
def test_nothing_joins_a_container(hostile: Hostile) -> None:
    """Verbs that enter, change or delete somebody's container do not exist."""
    verbs = (
        ["exec", "x"],
        ["bundle", "exec"],
        ["bundle", "join"],
        ["delete", "x"],
        ["state", "x"],
        ["kill", "x"],
    )
    jobs = [
        hostile.subject.shim(*words, user=corner.user)
        for corner in hostile.corners("direct")
        for words in verbs
    ]
    for result in hostile.call(*jobs):
        assert result.outcome == (2, "usage"), result
    verbs_that_are = [
        hostile.subject.shim("version", user=corner.user) for corner in hostile.corners("direct")
    ]
    assert [result.exit_code for result in hostile.call(*verbs_that_are)] == [0] * len(verbs_that_are)


@pytest.mark.clause("ATK-043")
def test_a_killed_supervisor(hostile: Hostile) -> None:
    """SIGKILL of the shim ends the payload, and its state is gone after the caller's next call."""
    steps = [{"expect": "ready"}, {"signal": 9, "to": "user"}]
    jobs: list[Job] = []
    for corner in hostile.corners():
        uid = hostile.subject.caller(corner.user).uid
        jobs += [
            hostile.job(corner, "/observe", "wait", steps=steps),
            hostile.subject.shim("cleanup", user=corner.user, after=f"ls -A /run/locald-shim/{uid} || true"),
        ]
    results = hostile.call(*jobs)
    for killed, cleaned in zip(results[::2], results[1::2], strict=True):
        assert (killed.problem, killed.exit_code) == ("", -9), killed
        assert cleaned.exit_code == 0, cleaned
        # Its own: a neighbour's containers may run.
        word = killed.data["argv"][killed.data["argv"].index("--id") + 1]
        assert word not in cleaned.after.split(), cleaned


@pytest.mark.clause("ATK-044")
def test_cleanup_stays_beneath(hostile: Hostile) -> None:
    """Removing a root filesystem follows no link and enters no mount, and takes the rest; all of a plain one."""

    def job(user: str, before: str) -> Job:
        base = hostile.job(Corner("direct", user), files={"outside/mark": {}, "rootfs/own/file": {}})
        after = (
            'umount "$BUNDLE/rootfs/own" 2>/dev/null || true; ls "$BUNDLE/outside"; ls -A "$BUNDLE/rootfs/"'
        )
        return base | {
            "argv": [hostile.subject.runtime.program, "cleanup", "--bundle", "{bundle}"],
            "before": before,
            "after": after,
        }

    swapped = 'rm -r "$BUNDLE/rootfs"; ln -s outside "$BUNDLE/rootfs"'
    mounted = 'mount --bind "$BUNDLE/outside" "$BUNDLE/rootfs/own"; ln -s ../outside "$BUNDLE/rootfs/link"'
    left = {swapped: ["mark", "mark"], mounted: ["mark", "own"], "true": ["mark"]}
    jobs = [(user, before) for user in USERS for before in left]
    results = hostile.call(*(job(user, before) for user, before in jobs))
    for (_, before), result in zip(jobs, results, strict=True):
        assert (result.exit_code == 0) == (before == "true"), result
        assert result.after.split() == left[before], result


@pytest.mark.clause("ATK-044")
def test_cleanup_of_ids(hostile: Hostile) -> None:
    """By an id a caller's dead container goes, and nothing else: no path, none that lives, nobody else's."""
    subject = hostile.subject
    program = subject.runtime.program
    state = "/run/locald-shim"

    def become(user: str) -> str:
        caller = subject.caller(user)
        return f"timeout {PATIENCE_S} setpriv --reuid {caller.uid} --regid {caller.gid} --init-groups"

    # A path to a file of root's that nothing needs, to the entry of the other user's container, and up and down again.
    canary = f"{state}/$TOKEN.canary"
    plant = f"install -d -m 700 {state}; : > {canary}"
    words = ("../{token}.canary", f"{state}/{{token}}.canary", "..", ".", "", "x/../../{token}.canary")
    jobs = [
        subject.shim(
            "cleanup", "--id", word, user=user, before=plant, after=f"ls {canary} || true; rm -f {canary}"
        )
        for user in USERS
        for word in words
    ]
    results = hostile.call(*jobs)
    hostile.judge_refused("id.invalid", [Result({**result.data, "new_files": []}) for result in results])
    for result in results:
        assert result.after.endswith(".canary\n"), result

    def living(corner: Corner) -> Job:
        (other,) = (user for user in USERS if user != corner.user)
        own, foreign = subject.caller(corner.user).uid, subject.caller(other).uid
        entry = f"ls {state}/{own}/$TOKEN"
        script = (
            f'{become(corner.user)} {program} cleanup --id "$TOKEN" 2>&1 || echo "own $?"\n'
            f'{become(other)} {program} cleanup --id "$TOKEN" 2>&1 && echo "foreign 0"\n'
            f'{become(other)} {program} cleanup --id "../{own}/$TOKEN" 2>&1 || echo "path $?"\n'
            # His own bundle is what a caller may clean up, and not another's, which he can read.
            f'{become(other)} {program} cleanup --bundle "$BUNDLE" 2>&1 || echo "bundle $?"\n'
            f'ls "$BUNDLE/rootfs/observe" || true; {entry} || true\n'
            f'ls -A {state}/{foreign} | grep -xF "$TOKEN" || true\n'
        )
        steps = [{"expect": "ready"}, {"script": script}, {"signal": 15, "to": "user"}]
        return hostile.job(corner, "/observe", "wait", init=True, steps=steps)

    corners = hostile.corners()
    for corner, result in zip(corners, hostile.call(*map(living, corners)), strict=True):
        own = subject.caller(corner.user).uid
        token = result.data["argv"][result.data["argv"].index("--id") + 1]
        assert result.problem == "", result
        said = result.stderr.splitlines()
        told = [line for line in said if not line.startswith("locald-shim: ")]
        codes = [line.partition("[")[2].partition("]")[0] for line in said if line not in told]
        assert codes == ["id.in-use", "id.invalid", "cleanup.failed"], result
        assert told[:4] == ["own 125", "foreign 0", "path 125", "bundle 125"], result
        assert [line.rpartition("/")[2] for line in told[4:]] == ["observe", token], (own, result)
        assert result.exit_code == 143, result  # 128 + TERM: it ran on until then

    def dead(corner: Corner) -> Job:
        own = subject.caller(corner.user).uid
        entry = f'ls -A {state}/{own} | grep -cxF "$TOKEN" || true'
        # Only the payload and the shim hold it; both are gone once there is no process of the container.
        script = (
            f"kill -KILL $SUBJECT\nfor i in $(seq 100); do\n"
            f'    {become(corner.user)} {program} cleanup --id "$TOKEN" 2>/dev/null && break; sleep 0.1\ndone\n{entry}'
        )
        steps = [{"expect": "ready"}, {"script": f"{entry}\n{script}"}]
        return hostile.job(corner, "/observe", "wait", init=True, steps=steps)

    for result in hostile.call(*map(dead, corners)):
        assert (result.problem, result.exit_code) == ("", -9), result
        assert result.stderr.split() == ["1", "0"], result


@pytest.mark.alone
@pytest.mark.clause("ATK-045")
def test_bind_gives_nothing_else(hostile: Hostile) -> None:
    """No port or address that the policy does not list, none for a stranger, nothing over datagrams; a listed one is.

    What root's file lists counts, and not what is listed without a word of it.
    """

    def asked(user: str, port: int, address: str = "127.0.0.1", stdin: str = "pair", **more: str) -> Job:
        job = ask(hostile.subject, port, address, stdin, **more)
        return job | {"user": user, "env": hostile.subject.host_env(user)}

    before, after = with_policy(f"echo 'bind-ports = 88' >> {POLICY}")
    one, other = USERS
    refused = [
        ("shim.policy", asked(STRANGER, 80)),
        ("bind.port", asked(one, 22)),
        ("bind.address", asked(other, 80, "127.0.0.2")),
        ("bind.stdin", asked(one, 80, stdin="datagrams")),
        ("bind.port", asked(other, 80, before=before, after=after)),
    ]
    given = [job for user in USERS for job in (asked(user, 80), asked(user, 88, before=before, after=after))]
    results = hostile.call(*(job for _, job in refused), *given)
    for (code, _), result in zip(refused, results, strict=False):
        assert (result.outcome, result.answer["count"]) == ((125, code), 0), result
    for result in results[len(refused) :]:
        assert (result.exit_code, result.answer["count"], result.answer["served"]) == (0, 1, "ping"), result


@pytest.mark.clause("ATK-052")
def test_nul_in_a_string(hostile: Hostile) -> None:
    """A string with a NUL is refused: what was judged and what a C string says would differ."""
    hostile.judge_refused("json.nul", hostile.call(*texts(hostile, {'"/observe"': '"/observe\\u0000x"'})))
    hostile.twins()


@pytest.mark.clause("ATK-054")
def test_memory_mounts_and_time(hostile: Hostile) -> None:
    """Endless arrays, thousands of arguments and mounts are refused by number; many are allowed, in little memory."""
    values = setting("annotations", value={str(number): "" for number in range(50_001)})
    arguments = setting("process", "args", value=["/observe", *["x"] * 4096])
    mounts = setting(
        "mounts", value=[{"destination": f"/srv/{n}", "type": "tmpfs", "source": "t"} for n in range(2000)]
    )
    hostile.refused("json.too-many", values)
    hostile.refused("config.too-many", arguments, mounts)

    def add_many(config: Config) -> None:
        config["annotations"].update({f"x-{number:09}": "y" * 30 for number in range(15_000)})

    def largest(corner: Corner) -> Job:
        look = "sed -n 's/^VmHWM:[[:space:]]*//p' /proc/$SUBJECT/status"
        steps = [{"expect": "ready"}, {"script": look}, {"signal": 15, "to": "user"}]
        return hostile.job(corner, "/observe", "wait", init=True, change=add_many, steps=steps)

    for result in hostile.call(*map(largest, hostile.corners())):
        assert result.problem == "", result
        assert int(result.stderr.split()[0]) <= MOST_KIB, result
    for facts in hostile.twins().values():
        assert len(facts.lines("argv")) == 1002
