"""Attacks 42 and 46: what the shim has no verb for, nor does on the way to something else.

There is no rule to switch off: no build has such a verb.
"""

import os
import signal
import stat
import subprocess
from pathlib import Path

from tests.shim.cases import forced
from tests.shim.delegation import delegated
from tests.shim.harness import READY, Call, Run, is_alive, read_owners

NO_VERB = "no build has such a verb"
# What a runtime, or a helper that is set-user-id, would look for in the caller's PATH.
HELPERS = (
    *("newuidmap", "newgidmap", "mount", "umount", "fusermount3", "ip", "iptables", "nft", "modprobe", "sh"),
    *("nsenter", "unshare", "runc", "crun", "slirp4netns", "pasta", "systemd-run", "dbus-launch", "locald"),
)
TRUSTED = ("SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "OPENSSL_CONF")


def usage(run: Run, *words: str) -> None:
    """Assert that this is no command line."""
    result = run.shim.call(words, run.caller)
    assert (result.status, result.code, result.stdout, result.stderr.count(b"\n")) == (2, "usage", b"", 1), (
        words,
        result,
    )


def its_caller_ends_it(run: Run) -> None:
    """What is left to the caller: a signal to the shim, another container beside, the id again afterwards."""
    call = Call(id="entered")
    script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with run.shim.running(run.bundle("sh", "-c", script), call) as running:
        assert run("true").status == 0
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=10) == 3
    assert run("true", call=call).status == 0


@forced("42", twin=its_caller_ends_it, unbreakable=NO_VERB)
def nothing_enters_a_container(run: Run) -> None:
    """No word of other runtimes enters, changes or ends a container, nor does its id lead there a second time."""
    call = Call(id="entered")
    with run.shim.running(run.bundle(*READY), call) as running:
        below = running.descendants()
        for verb in (
            "exec",
            "join",
            "attach",
            "enter",
            "kill",
            "delete",
            "pause",
            "update",
            "checkpoint",
            "state",
        ):
            for words in (
                [verb, "entered"],
                ["bundle", verb, "--id", "entered"],
                [verb, "--id", "entered", "sh"],
            ):
                usage(run, *words)
        for name, value in (
            ("--exec", "sh"),
            ("--pid", str(below[0])),
            ("--namespace", f"/proc/{below[0]}/ns/pid"),
        ):
            usage(run, *run.shim.arguments(run.bundle(), call), name, value)
        run.refused(run.bundle(), "id.in-use", call)
        result = run.shim.call(["cleanup", "--id", "entered"], run.caller)
        assert (result.status, result.code) == (125, "id.in-use"), result
        assert running.descendants() == below
        assert all(map(is_alive, below))


def plant_helpers(run: Run) -> tuple[Path, Path]:
    """Make a directory of programs of the caller's that would leave a mark; the directory and the mark."""
    directory = run.workshop.directory(run.caller)
    mark = directory / "mark"
    for name in HELPERS:
        (directory / name).write_text(f"#!/bin/busybox sh\n/bin/busybox id >>{mark}\n")
        (directory / name).chmod(0o755)
    return directory, mark


def programs_of_the_image_are_found(run: Run) -> None:
    """The PATH of the config leads to them, and what runs is the caller's."""
    directory, mark = plant_helpers(run)
    bundle = run.bundle("runc")
    bundle.bind(directory, str(directory))
    bundle.process["env"] = [f"PATH={directory}"]
    assert run.shim.run(bundle).status == 0
    assert mark.stat().st_uid == run.caller.uid


@forced("46", twin=programs_of_the_image_are_found, unbreakable=NO_VERB, label="path")
def no_program_of_the_callers_is_executed(run: Run) -> None:
    """His PATH leads to programs that a runtime would look for: none is executed, for any verb."""
    directory, mark = plant_helpers(run)
    call = Call(env={"PATH": str(directory)})
    bundle = run.bundle("true")
    bundle.linux["namespaces"].append({"type": "network"})
    bundle.process["terminal"] = True
    bundle.config["annotations"] = {"dev.locald.init": "true"}
    assert run.shim.run(bundle, call).status == 0
    for words in (["cleanup", "--bundle", str(bundle.path)], ["cleanup"], ["check"], ["version"]):
        assert run.shim.call(words, run.caller, call).status == 0, words
    assert run.shim.call(["bind", "--port", "80"], run.caller, call).status == 125
    assert not mark.exists()


@forced("46", unbreakable=NO_VERB, label="home")
def nothing_in_the_callers_home_is_trusted(run: Run) -> None:
    """No certificate, no configuration, no file that his environment names is opened, whatever is run."""
    home = run.workshop.directory(run.caller)
    variables = {name: str(home / name.lower()) for name in TRUSTED}
    variables |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    wrapper = [
        "/usr/bin/strace",
        "-f",
        "-qq",
        "-u",
        run.caller.name,
        "-e",
        "trace=%file,%network",
        "-s",
        "300",
    ]
    wrapper += [word for name, value in variables.items() for word in ("-E", f"{name}={value}")]
    call = Call(wrapper=wrapper, stdin=subprocess.DEVNULL)
    bundle = run.bundle("true")
    for result in (
        run.shim.run(bundle, call),
        run.shim.call(["cleanup", "--bundle", str(bundle.path)], run.caller, call),
        run.shim.call(["check"], run.caller, call),
    ):
        assert result.status == 0, result
        # The trace is there, and says nothing of his home, nor of a connection to anywhere.
        assert b"execve(" in result.stderr, result
        assert str(home).encode() not in result.stderr
        assert b"connect(" not in result.stderr


def a_name_without_lines(run: Run) -> None:
    """A plain name is the container's, and the tables of the image are its own."""
    bundle = run.bundle("sh", "-c", "hostname; cat /etc/hosts")
    (bundle.rootfs / "etc" / "hosts").write_text("192.0.2.1 kept\n")
    bundle.config["hostname"] = "box"
    assert run.shim.run(bundle).lines() == ["box", "192.0.2.1 kept"]


@forced("46", twin=a_name_without_lines, unbreakable=NO_VERB, label="hosts")
def no_line_gets_into_a_table(run: Run) -> None:
    """A name with a line in it is refused, and no table is written: neither the host's nor the image's."""
    host = [Path("/etc", name) for name in ("hosts", "hostname", "resolv.conf")]
    before = [path.read_bytes() if path.exists() else None for path in host]
    for name in ("box\n192.0.2.1 www", "box 192.0.2.1", "box\t", "box\r\n#", "box#"):
        bundle = run.bundle()
        bundle.config["hostname"] = name
        run.refused(bundle, "config.hostname")
    bundle = run.bundle()
    bundle.config["hostname"] = "box"
    assert run.shim.run(bundle).status == 0
    assert sorted(os.listdir(bundle.rootfs / "etc")) == ["passwd"]
    assert read_owners(bundle.path) == {}
    assert [path.read_bytes() if path.exists() else None for path in host] == before


@forced("46", unbreakable=NO_VERB, label="cgroup")
def a_cgroup_of_the_callers_choice_is_not_killed(run: Run) -> None:
    """Named by the config, by an option, or left as what a dead container of his is said to have had."""
    with delegated(run) as place:
        victim = place.top / "locald-victim.leaf"
        victim.mkdir()
        kept = subprocess.Popen(["/bin/sleep", "60"], stdin=subprocess.DEVNULL)
        try:
            (victim / "cgroup.procs").write_text(str(kept.pid))
            for path in (str(victim), f"/{place.top.name}/{victim.name}", victim.name):
                bundle = run.bundle()
                bundle.linux["cgroupsPath"] = path
                run.refused(bundle, "cgroup.path", place.call())
                for verb in ("cleanup", "kill"):
                    usage(run, verb, "--cgroup", path)
            for words in (["cleanup"], ["cleanup", "--id", "victim"]):
                assert run.shim.call(words, run.caller, place.call()).status == 0
            assert run("true", call=place.call(container="victim")).status == 0
            assert kept.poll() is None
        finally:
            kept.kill()
            kept.wait()


@forced("46", unbreakable=NO_VERB, label="verbs")
def no_other_word_does_anything(run: Run) -> None:
    """Words for what such helpers do elsewhere, in any place of the command line; root's own verb is root's."""
    for words in (
        *(
            [verb]
            for verb in ("hosts", "ca", "trust", "proxy", "dns", "tunnel", "daemon", "admin", "run", "sudo")
        ),
        *(["admin", verb] for verb in ("setup", "exec", "hosts")),
        ["cleanup", "--all"],
        ["cleanup", "--pid", "1"],
        ["bundle", "run", "--hook", "/bin/true"],
        ["install", "--prefix", "/"],
        ["version", "x"],
        ["--help"],
        ["-c", "id"],
    ):
        usage(run, *words)
    result = run.shim.call(["install"], run.caller)
    assert (result.status, result.code) == (125, "install.not-root"), result
    assert stat.S_IMODE(run.shim.path.stat().st_mode) == 0o4755
