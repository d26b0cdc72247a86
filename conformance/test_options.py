"""RUN: what an image's config and the options of `locald run` come to in the container."""

import errno
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from conformance import inputs
from conformance.inputs import Entry
from conformance.observation import parse_facts
from conformance.runtimes import ONCE, Mode
from conformance.subject import HOME, LOCALD, Job, Subject

OBSERVE: Final = "/bin/observe"
# Of /etc/group in the image: its name, its number, and the user that it lists.
STAFF: Final = "staff", 50, "service"
LABEL: Final = "io.buildpacks.build.metadata"
READY: Final = "ready"
# Where the bundle of a container that runs lies, from the command line of its shim: locald may put it anywhere.
NOTED: Final = f"{HOME}/work/$TOKEN.bundle"
FIND_BUNDLE: Final = f"""
shim=$(cat /proc/$SUBJECT/task/$SUBJECT/children)
tr '\\0' '\\n' < /proc/${{shim%% *}}/cmdline | sed -n '/^--bundle$/{{n;p}}' > {NOTED}
ls "$(cat {NOTED})/config.json" || true
"""
LOOK_FOR_BUNDLE: Final = f'ls -d "$(cat {NOTED} 2>/dev/null)" 2>/dev/null || true; rm -f {NOTED}'

MakeImage = Callable[[dict[str, Any]], str]


@pytest.fixture(scope="session")
def image(
    product: Subject, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> MakeImage:
    """Return what puts an image of the kit's observer with a given image config into the guest, as `oci:DIR`.

    Once a worker for each config: it is root's, so no test can change what the next one gets, and to bring it there
    takes as long as to run it.
    """
    cache = Path(pytestconfig.getoption("kit_cache")).expanduser()
    # As it was compiled for the installation.
    observer = inputs.find_observer(cache).read_bytes()
    staff, number, member = STAFF
    layer = inputs.make_layer(
        [
            *(Entry(place, mode=0o755, directory=True) for place in ("bin", "etc", "srv")),
            Entry("tmp", mode=0o1777, directory=True),
            Entry("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nservice:x:999:998::/srv:/bin/sh\n"),
            Entry("etc/group", f"root:x:0:\nservice:x:998:\n{staff}:x:{number}:{member}\n".encode()),
            Entry("bin/observe", observer, mode=0o755),
            Entry("data", mode=0o755, directory=True),
            Entry("data/seed", b"of the image"),
        ]
    )
    made: dict[str, str] = {}

    def make(config: dict[str, Any]) -> str:
        key = json.dumps(config, sort_keys=True)
        if key not in made:
            aside, name = tmp_path_factory.mktemp("image"), product.make_token()
            inputs.write_layout(aside / name, [layer], config)
            # With its own directory, and for everybody, whatever umask this process and the guest have.
            for path in aside.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            product.guest.push(aside, f"{HOME}/images")
            made[key] = f"oci:{HOME}/images/{name}"
        return made[key]

    return make


def run(subject: Subject, mode: Mode, *words: str, **more: Any) -> Job:
    """Return the job of `locald run` in a mode."""
    return subject.locald("run", "--mode", mode, *words, **more)


@pytest.mark.clause("RUN-001")
def test_the_command(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """Entry point and arguments, the image's or the user's; none at all is refused."""
    plain = image({"Entrypoint": [OBSERVE], "Cmd": ["exit", "3"]})
    empty = image({})
    # The image's arguments go with its entry point.
    nothing = [("--entrypoint", "", plain), (empty,)] if mode == ONCE else []
    results = subject.call(
        run(subject, mode, plain),
        run(subject, mode, plain, "--", "exit", "4"),
        run(subject, mode, "--entrypoint", OBSERVE, empty, "--", "exit", "5"),
        *(run(subject, mode, *words) for words in nothing),
    )

    assert [result.exit_code for result in results[:3]] == [3, 4, 5], results
    assert [result.outcome for result in results[3:]] == [(125, "run.no-command")] * len(nothing)


@pytest.mark.clause("RUN-002")
def test_a_terminal(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """With -i -t the container's terminal has the size of the user's, and TERM is set; without, it is not."""
    plain = image({"Entrypoint": [OBSERVE]})
    window, named, *bare = subject.call(
        run(
            *(subject, mode, "-i", "-t", plain, "--", "winch"),
            terminal=[37, 101],
            steps=[{"expect": "window 0 37 101"}, {"resize": [12, 60]}],
        ),
        run(subject, mode, "-i", "-t", plain, "--", "facts", terminal=[37, 101]),
        *([run(subject, mode, plain, "--", "facts")] if mode == ONCE else []),
    )

    assert (window.problem, window.exit_code) == ("", 0), window
    assert "\nTERM=xterm\r\n" in named.stdout, named
    for result in bare:
        assert "TERM" not in result.facts.environ, result


@pytest.mark.clause("RUN-003")
def test_groups_of_the_images_user(subject: Subject, image: MakeImage) -> None:
    """Mapped, he is in the groups that the image's /etc/group lists him in, or in the one that is named beside him.

    Where none is mapped, he is in his caller's.
    """
    group, number, user = STAFF
    named = image({"Entrypoint": [OBSERVE, "facts"], "User": user})
    rich, told, direct = subject.call(
        run(subject, "mapped", named),
        run(subject, "mapped", "-u", f"{user}:{group}", named),
        run(subject, "direct", named),
    )

    assert rich.exit_code == 0, rich
    assert rich.facts.status["Groups"].split() == [str(number)], rich.facts.status
    assert rich.facts.status["Gid"].split() == ["998"] * 4, rich.facts.status
    assert told.exit_code == 0, told
    assert told.facts.status["Gid"].split() == [str(number)] * 4, told.facts.status
    assert told.facts.status["Groups"].split() == [], told.facts.status
    assert direct.exit_code == 0, direct
    assert direct.facts.status["Groups"].split() == subject.groups_of("plain"), direct.facts.status


@pytest.mark.clause("RUN-004")
def test_an_image_of_buildpacks(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """It is told the version of the platform API; another image is not."""
    command = {"Entrypoint": [OBSERVE, "facts"]}
    built, *others = subject.call(
        run(subject, mode, image({**command, "Labels": {LABEL: "x"}})),
        *([run(subject, mode, image(command))] if mode == ONCE else []),
    )

    assert built.facts.environ["CNB_PLATFORM_API"], built
    for result in others:
        assert "CNB_PLATFORM_API" not in result.facts.environ, result


@pytest.mark.clause("RUN-005")
def test_what_cannot_be_is_said(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """A relative working directory; a volume of what is not there, or over what is of another kind.

    And in direct mode a user who is not the caller.
    """
    plain = image({"Entrypoint": [OBSERVE, "facts"]})
    refused: dict[tuple[str, ...], str] = {}
    if mode == ONCE:
        refused = {
            (image({"Entrypoint": [OBSERVE, "facts"], "WorkingDir": "srv"}),): "run.workdir",
            ("-v", "/absent:/new", plain): "run.volume",
            ("-v", "/etc:/etc/passwd", plain): "run.volume",
        }
    foreign, *results = subject.call(
        run(subject, mode, "-u", "999:998", plain), *(run(subject, mode, *words) for words in refused)
    )

    for code, result in zip(refused.values(), results, strict=True):
        assert result.outcome == (125, code), result
    if mode == "direct":
        assert foreign.outcome == (125, "user.unmappable"), foreign
    else:
        assert foreign.exit_code == 0, foreign
        assert foreign.facts.status["Uid"].split() == ["999"] * 4
        assert foreign.facts.status["Gid"].split() == ["998"] * 4


@pytest.mark.clause("RUN-006")
def test_the_images_stop_signal(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """TERM to locald is that signal to the payload, by its number as by its name; a name that is none is TERM."""
    user_one, terminate = int(signal.SIGUSR1), int(signal.SIGTERM)
    wanted = [(str(user_one), user_one)]
    if mode == ONCE:
        wanted += [("USR1", user_one), ("SIGUSR1", user_one), ("SIGNONE", terminate)]
    results = subject.call(
        *(
            run(
                *(subject, mode, image({"Entrypoint": [OBSERVE, "signals", "1"], "StopSignal": name})),
                steps=[{"expect": READY}, {"signal": terminate, "to": "user"}],
            )
            for name, _ in wanted
        )
    )

    for (name, number), result in zip(wanted, results, strict=True):
        assert f"signal {number:02}" in result.stdout, (name, result)


@pytest.mark.clause("RUN-007")
def test_the_users_word_counts(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """-e wins over --env-file, and that and -w over the image; HOME is what the image's passwd says of its user.

    A value ends with its line or word, whatever it holds. Without one -e takes the caller's, if he has one. A working
    directory that the image lacks is made.
    """
    config = {
        "Entrypoint": [OBSERVE, "facts"],
        "Env": ["WHO=image", "KEPT=a=yes"],
        "User": "service",
        "WorkingDir": "/bin",
    }
    place = f"{HOME}/homes/plain-{subject.worker}/variables"
    lines = "# MARK=no\\n\\nWHO=file\\nFROM=a=file # and no comment\\n"
    words = (
        "--env-file",
        place,
        "-e",
        "WHO=a=user",
        "-e",
        "TAKEN",
        "-e",
        "ABSENT",
        "-w",
        "/not/in/it",
        image(config),
    )
    write = f"printf '{lines}' > {place}; chmod 644 {place}"
    (result,) = subject.call(
        run(subject, mode, *words, env={"TAKEN": "the caller's"}, before=write, after=f"rm {place}")
    )

    assert result.exit_code == 0, result
    seen = result.facts.environ
    wanted = {"WHO": "a=user", "KEPT": "a=yes", "HOME": "/srv", "FROM": "a=file # and no comment"}
    wanted["TAKEN"] = "the caller's"
    assert not [name for name in seen if "MARK" in name or name == "ABSENT"], seen
    assert {name: seen.get(name) for name in wanted} == wanted
    assert result.facts.process["cwd"] == "/not/in/it"


@pytest.mark.clause("RUN-008")
def test_volumes_of_an_image(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """A directory of Volumes holds what the image has there, is writable with --read-only, and new in each run."""
    named = image({"Entrypoint": [OBSERVE], "Volumes": {"/data": {}}})
    words = ("--read-only", named, "--")
    made, looked = subject.call(
        run(subject, mode, *words, "touch", "/data/made"),
        run(subject, mode, *words, "stat", "/data/seed", "/data/made"),
    )

    assert made.stdout == "touch 0\n", made
    # The mode of what the image has, and that nothing is left of the other run.
    assert [line.split()[-1] for line in looked.stdout.splitlines()] == ["100644", str(errno.ENOENT)], looked


@pytest.mark.clause("RUN-009")
def test_a_read_only_volume(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """-v DIR:PLACE:ro shows the directory, which the container cannot write to (one that it can: IMG-004).

    One below it is mounted after it, whichever is named first.
    """
    caller = subject.caller()
    place = f"{HOME}/homes/plain-{subject.worker}/{subject.make_token()}"
    plain = image({"Entrypoint": [OBSERVE]})
    words = ("-v", f"{place}/own:/data/below", "-v", f"{place}/shown:/data:ro", plain, "--", "touch")
    made = f"install -d -o {caller.uid} -g {caller.gid} {place} {place}/own {place}/shown {place}/shown/below"
    shown, own = subject.call(
        run(subject, mode, *words, "/data/made", before=made),
        run(subject, mode, *words, "/data/below/made", after=f"cd {place}; find -type f; rm -r {place}"),
    )

    assert shown.stdout == f"touch {errno.EROFS}\n", shown
    assert (own.stdout, own.after) == ("touch 0\n", "./own/made\n"), own


@pytest.mark.clause("RUN-010")
def test_names_in_etc(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """With the host's network names are the host's; without, hosts knows the container's; direct, tables the caller."""
    plain = image({"Entrypoint": [OBSERVE]})
    tables = ("/etc/hosts", "/etc/hostname", "/etc/passwd", "/etc/group")
    shared = ("/etc/hosts", "/etc/resolv.conf")
    alone = ("--network", "none", "--name", "own-name", plain, "--", "show", *tables)
    made = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
    result, open_, *rights = subject.call(
        run(subject, mode, *alone),
        run(subject, mode, "--network", "host", plain, "--", "show", *shared),
        *([run(subject, mode, plain, "--", "stat", *made)] if mode == ONCE else []),
    )

    # Whoever a process in the container becomes may read them.
    for looked in rights:
        assert [line.split()[-1] for line in looked.stdout.splitlines()] == ["100644"] * len(made), looked
    of_container = parse_facts(open_.stdout)
    for name in shared:
        # A host without the file gives an empty one.
        of_host = subject.root(f"cat {name} || true").stdout
        assert "\n".join(of_container.lines(name)).strip() == of_host.strip(), open_
    shown = parse_facts(result.stdout)
    caller = subject.caller()
    assert shown.text("/etc/hostname") == "own-name", result
    hosts = [line.split() for line in shown.lines("/etc/hosts")]
    assert [line for line in (["127.0.0.1", "own-name"], ["::1", "localhost"]) if line not in hosts] == [], (
        result
    )
    for name, number in (("/etc/passwd", caller.uid), ("/etc/group", caller.gid)):
        numbers = {line.split(":")[2] for line in shown.lines(name)}
        assert (str(number) in numbers) == (mode == "direct"), (name, result)


@pytest.mark.clause("RUN-011")
def test_standard_input(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """With -i the container reads what is sent to locald; without, its input is at its end at once."""
    plain = image({"Entrypoint": [OBSERVE, "cat"]})
    given, empty = subject.call(
        run(subject, mode, "-i", plain, stdin="sent\n"), run(subject, mode, plain, stdin="sent\n")
    )

    assert (given.exit_code, given.stdout) == (0, "sent\n"), given
    assert (empty.exit_code, empty.stdout) == (0, ""), empty


@pytest.mark.clause("RUN-012")
def test_a_run_leaves_nothing(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """What a container writes goes with it, and so does its bundle, which nobody else sees."""
    plain = image({"Entrypoint": [OBSERVE]})
    # Where no run has been before, so that this one makes it.
    cache = f"{HOME}/homes/plain-{subject.worker}/{subject.make_token()}"
    made, looked, waited = subject.call(
        run(subject, mode, plain, "--", "touch", "/srv/made"),
        run(subject, mode, plain, "--", "stat", "/srv/made"),
        run(
            *(subject, mode, plain, "--", "wait"),
            steps=[
                {"expect": READY},
                {"script": f'{FIND_BUNDLE}stat -c %a "$(dirname "$(cat {NOTED})")"'},
                {"signal": int(signal.SIGTERM), "to": "user"},
            ],
            env={"XDG_CACHE_HOME": cache},
            umask=0,
            after=f"{LOOK_FOR_BUNDLE}; rm -rf {cache}",
        ),
    )

    assert made.stdout == "touch 0\n", made
    assert looked.stdout == f"/srv/made errno {errno.ENOENT}\n", looked
    assert waited.problem == "", waited
    config, rights = waited.stderr.splitlines()[-2:]
    assert config.endswith("/config.json"), waited
    assert rights == "700", waited
    assert waited.after == "", waited


@pytest.mark.clause("RUN-013")
def test_a_killed_run_is_tidied_up(subject: Subject, mode: Mode, image: MakeImage) -> None:
    """SIGKILL of locald: with the user's next run its container has ended and its bundle is gone; that one runs."""
    plain = image({"Entrypoint": [OBSERVE]})
    caller = subject.caller()
    env = " ".join(f"{name}={value}" for name, value in subject.host_env("plain").items())
    become = f"setpriv --reuid {caller.uid} --regid {caller.gid} --init-groups env -i {env}"
    # Every process of it carries its name; zombies, which nobody reaped yet, carry none.
    count = 'grep -lsaF "CONTAINER=$TOKEN" /proc/[0-9]*/environ 2>/dev/null | wc -l'
    script = (
        f"{FIND_BUNDLE}echo processes $({count}); kill -KILL $SUBJECT\n"
        f"{become} {LOCALD} run --mode {mode} {plain} -- exit 7 2>&1 && echo code 0 || echo code $?\n"
        # The last of them may still be on its way out.
        f"for i in $(seq 50); do [ $({count}) != 0 ] || break; sleep 0.1; done; echo processes $({count})"
    )
    (result,) = subject.call(
        run(
            *(subject, mode, "-e", "CONTAINER={token}", plain, "--", "wait"),
            steps=[{"expect": READY}, {"script": script}],
            after=LOOK_FOR_BUNDLE,
            limit_s=120.0,
        )
    )

    assert (result.problem, result.exit_code) == ("", -int(signal.SIGKILL)), result
    # Between them, what locald notes of its mode.
    said = [line for line in result.stderr.splitlines() if not line.startswith("locald: ")]
    assert said[0].endswith("/config.json"), result
    assert said[1] != "processes 0", result
    assert said[2:] == ["code 7", "processes 0"], result
    assert result.leftover == [], result
    assert result.after == "", result
