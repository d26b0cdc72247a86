"""Judge every clause on several hosts, so many at a time, into one report.

Each host has a pytest process of its own, which is the kit as for one host: it boots, proves, judges and reports. Its
output goes to REPORT_DIR/PROFILE.log, how far it is comes through a pipe. One host alone has the terminal to itself.
"""

import argparse
import contextlib
import datetime
import hashlib
import os
import random
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

import vms
from conformance import again, progress, waivers
from conformance.clauses import CatalogueError, read_catalogue
from conformance.options import OPTIONS, Reader
from conformance.provenance import digest_files
from conformance.release.policy import read_policy
from conformance.rendering import summary
from conformance.report import Json, ReportError
from conformance.report_files import make_place, read_report
from conformance.session import REPORTS, ROOT, now_text

INTERRUPTED: Final = 130
LOCAL_WORKERS: Final = 2
"""Of xdist, where the host is this machine itself; a guest has one for each of its processors (decision 44)."""

MEMORY_BYTES: Final = 3 << 30
"""What one host may take of the controller's memory: 1 GiB in the guest, as much again for QEMU's translation cache."""

END_LIMIT_S: Final = 180.0
"""For a run to end that said all it had to say, or that was interrupted and takes its machine away first."""

SILENT_LIMIT_S: Final = 3600.0
"""For a run to tell anything: longer than a box takes to build, or one case with its tries on an emulated host."""

TAIL_LINES: Final = 25

OWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "--profile": {"action": "append"},
    "--report-dir": {"type": Path},
}
"""How `run` reads an option where a host's own process reads it otherwise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to judge, and how."""

    profiles: tuple[str, ...]
    jobs: int
    reports: Path
    # For every pytest process: the wheel, the clauses, the seed, the runtime.
    options: tuple[str, ...]

    def make_command(self, profile: str) -> list[str]:
        """Return the command that judges one host."""
        pytest = (sys.executable, "-m", "pytest", "conformance")
        workers = vms.read(profile).cpus or LOCAL_WORKERS
        own = (f"--profile={profile}", f"--report-dir={self.reports}", f"--numprocesses={workers}")
        # After ours, so that what the user says of the workers counts.
        return [*pytest, *own, *self.options]


class View(Protocol):
    """Who shows how far the runs are: a `progress.Board`, or `Lines`."""

    def add(self, profile: str, *, begun: bool) -> None:
        """Name a host that will be judged."""

    def show(self, profile: str, state: progress.State) -> None:
        """Show how far a host is."""

    def finish(self, profile: str, note: str) -> None:
        """Show that a host is done."""


class Lines:
    """The view for a log: a line where a phase begins, a test is red, or a quarter of the clauses is done."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, int, int]] = {}

    def add(self, profile: str, *, begun: bool) -> None:
        """Say nothing: a host that waits is no news."""

    def show(self, profile: str, state: progress.State) -> None:
        """Say what is new since the last line."""
        quarter = 4 * state.clauses_done // state.clauses_total if state.clauses_total else 0
        news = (state.phase, quarter, len(state.red))
        if news == self._said.get(profile):
            return
        self._said[profile] = news
        done = f" {state.clauses_done} of {state.clauses_total}" if state.clauses_done else ""
        red = f", {state.note}" if state.red else ""
        self._say(f"{profile}: {state.phase}{done}{red}")

    def finish(self, profile: str, note: str) -> None:
        """Say how it ended."""
        self._say(f"{profile}: {note}")

    def _say(self, line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


@dataclass(slots=True)
class Run:
    """One host that is being judged."""

    profile: str
    process: "subprocess.Popen[bytes]"
    # Where the process tells how far it is; its end is the end of the run.
    pipe: int
    # Whether the machine was up, or may have been: then it is somebody's who wants it after the run too.
    was_up: bool
    begun: float = field(default_factory=time.monotonic)
    # Whether it told anything: pytest that only lists its tests judges nothing and exits with 0.
    told: bool = False
    # When that is too long ago, it is ended.
    silent: vms.Deadline = field(default_factory=lambda: vms.Deadline.after(SILENT_LIMIT_S))
    # Whether its end of the pipe is closed.
    done: bool = False
    _rest: bytes = b""

    def read(self) -> list[progress.State] | None:
        """Return the states that were told since the last call; None at the end of all."""
        content = os.read(self.pipe, 65536)
        if not content:
            return None
        self.told = True
        self.silent = vms.Deadline.after(SILENT_LIMIT_S)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [progress.parse_state(line) for line in lines]


def start(plan: Plan, profile: str) -> Run:
    """Start the process that judges one host."""
    was_up = ask_status(profile) != "down"
    reader, writer = os.pipe()
    try:
        with (plan.reports / f"{profile}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603  # argv of our own
                [*plan.make_command(profile), f"--progress-fd={writer}"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(writer,),
                # Ctrl-C at the terminal reaches this process alone, which passes it on once.
                process_group=0,
            )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return Run(profile, process, reader, was_up)


def judge(plan: Plan, view: View) -> dict[str, int]:
    """Judge all hosts and return each one's exit code.

    Raises:
        KeyboardInterrupt: The person, or TERM or HUP, ended it, and so every run.
    """
    for profile in plan.profiles:
        view.add(profile, begun=False)
    waiting = list(plan.profiles)
    codes: dict[str, int] = {}
    running: list[Run] = []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < plan.jobs:
                    running.append(start(plan, waiting.pop(0)))
                    selector.register(running[-1].pipe, selectors.EVENT_READ, running[-1])
                for key, _ in selector.select(min(run.silent.left_s for run in running)):
                    heard: Run = key.data
                    states = heard.read()
                    heard.done = states is None
                    for state in states or ():
                        view.show(heard.profile, state)
                for run in [run for run in running if run.done or run.silent.passed]:
                    # Still among those that run, should it not end and have to be interrupted.
                    codes[run.profile] = wait_or_end(run, END_LIMIT_S) if run.done else end_silent(run)
                    selector.unregister(run.pipe)
                    running.remove(run)
                    os.close(run.pipe)
                    view.finish(run.profile, describe_end(run, codes[run.profile]))
        except BaseException:
            with vms.undisturbed():
                interrupt(running)
            raise
    return codes


def describe_end(run: Run, code: int) -> str:
    """Return how a run ended, for the view."""
    state = f"NOT green, exit code {code}" if code else "green" if run.told else "judged nothing"
    if not run.done:
        state = f"{state}, ended: it told nothing for {SILENT_LIMIT_S:.0f} s"
    return f"{state} after {time.monotonic() - run.begun:.0f} s"


def interrupt(running: Sequence[Run]) -> None:
    """End the runs, each of which takes its machine away; where one does not, do it."""
    for run in running:
        run.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + END_LIMIT_S
    for run in running:
        wait_or_end(run, max(0.0, deadline - time.monotonic()))
        os.close(run.pipe)


def end_silent(run: Run) -> int:
    """Interrupt a run that tells nothing any more, and return its exit code, which is never 0."""
    run.process.send_signal(signal.SIGINT)
    return wait_or_end(run, END_LIMIT_S) or INTERRUPTED


def wait_or_end(run: Run, limit_s: float) -> int:
    """Return the exit code of a run that is about to end; one that does not is killed, and its machine with it."""
    try:
        return run.process.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(run.process.pid, signal.SIGKILL)
        code = run.process.wait()
        take_away(run)
        return code


def take_away(run: Run) -> None:
    """Take away the machine that a run brought up and was killed before it could take it away itself."""
    if run.was_up:
        return
    try:
        vms.destroy(run.profile)
    except (vms.VmsError, OSError) as error:
        # Other runs have to be ended yet.
        sys.stderr.write(f"conformance: {run.profile}: not taken away: {on_one_line(error)}\n")


def ask_status(profile: str) -> str:
    """Return whether a machine is `up` or `down`; something else, with the reason, where nobody can tell."""
    try:
        return vms.status(profile)
    except vms.VmsError as error:
        return f"perhaps up ({on_one_line(error)})"


def on_one_line(error: Exception) -> str:
    """Return what an error says, with its hint."""
    return " ".join(str(error).split())


def choose_jobs(wanted: int | None) -> int:
    """Return how many hosts to judge at a time: `wanted`, else one a processor, as far as the memory goes."""
    if wanted is not None:
        return wanted
    return max(1, min(len(os.sched_getaffinity(0)), find_available_bytes() // MEMORY_BYTES))


def find_available_bytes() -> int:
    """Return how much memory can be had without swapping, the kernel's caches included; proc_meminfo(5)."""
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return int(available) * 1024


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `run`; what it does not know is for pytest."""
    parser = argparse.ArgumentParser(
        prog="conformance",
        usage="ci/nox -s conformance -- [OPTION ...]",
        description="Judge every clause on each host. docs/manual/guides/reports.md says more of each option.",
        epilog=describe_others(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # An abbreviation might be an option of pytest's.
        allow_abbrev=False,
    )
    for option in OPTIONS:
        if option.reader in {Reader.RUN, Reader.BOTH}:
            option.declare(parser.add_argument, **OWN.get(option.name, {}))
    return parser


def describe_others() -> str:
    """Return the help of what is handed on to pytest, as argparse writes it."""
    others = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
    group = others.add_argument_group("for the process of each host, as are those of pytest")
    for option in OPTIONS:
        if option.reader in {Reader.HOST, Reader.PYTEST}:
            option.declare(group.add_argument)
    return others.format_help()


def main(arguments: Sequence[str]) -> int:
    """Judge, print the matrix, and return 0 if this run made a green report about each host; else 1.

    2 for usage, 130 after Ctrl-C.
    """
    parser = make_parser()
    chosen, rest = parser.parse_known_args(arguments)
    plan = make_plan(parser, chosen, rest)
    tested = read_tested(rest)
    for option, path in tested.items():
        if not path.is_file():
            parser.error(f"--{option} {path}: no such file")
    if chosen.report_dir or len(plan.profiles) > 1:
        make_directory(parser, plan.reports)
    require_no_others(parser, plan, chosen.runtime, tested.get("wheel"))
    if len(plan.profiles) == 1:
        become(plan)
    # A shell's `&` has it ignored, which the runs would inherit: they could not be ended by it any more.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begun, since = time.monotonic(), now_text()
    try:
        with vms.interruptible(), viewed() as view:
            codes = judge(plan, view)
    except KeyboardInterrupt:
        with vms.undisturbed():
            left = tuple(find_left(plan.profiles)) or ("no machine is left",)
        for line in left:
            sys.stderr.write(f"conformance: interrupted; {line}\n")
        return INTERRUPTED
    report: Json = {"profiles": []}
    try:
        report = read_own(plan, since)
    except ReportError as error:
        sys.stderr.write(f"conformance: {on_one_line(error)}\n")
    for line in describe(plan, report, codes, time.monotonic() - begun):
        sys.stdout.write(f"{line}\n")
    green = {entry["profile"] for entry in report["profiles"] if entry["green"]}
    # Neither is enough: a process may end well that judged nothing, or badly after its report.
    return int(any(codes.values()) or green != set(plan.profiles))


def make_directory(parser: argparse.ArgumentParser, directory: Path) -> None:
    """Make the directory of the reports; ends with 2 and one line where it cannot be, or takes no file."""
    try:
        make_place(directory)
    except OSError as error:
        parser.error(f"--report-dir {directory}: {error.strerror}")


def read_tested(options: Sequence[str]) -> dict[str, Path]:
    """Return the wheel and the shim that are among the options of the hosts' own processes, by their options' names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--shim", type=Path)
    return vars(parser.parse_known_args(options)[0])


def require_no_others(parser: argparse.ArgumentParser, plan: Plan, runtime: str, wheel: Path | None) -> None:
    """End with 2 where the place has results that those of this run could not be joined with.

    They refuse each other at the end of the first host, and all that is judged by then is for nothing.
    """
    place = plan.reports / "report.json"
    if not place.exists():
        return
    try:
        entries = read_report(place)["profiles"]
    except ReportError as error:
        parser.error(f"--report-dir {plan.reports}: {error}")
    own = {
        "kit": digest_files(),
        "runtime": runtime,
        "wheel": hashlib.sha256(wheel.read_bytes()).hexdigest() if wheel else "",
    }
    for entry in entries:
        theirs = {
            "kit": entry["kit"].get("sha256"),
            "runtime": entry["runtime"],
            "wheel": entry["subject"].get("wheel_sha256"),
        }
        others = [what for what, known in own.items() if known and theirs[what] not in (None, "", known)]
        # What is there of the only host of this run, it takes the place of.
        if others and plan.profiles != (entry["profile"],):
            parser.error(
                f"--report-dir {plan.reports}: {entry['profile']} was judged there with another "
                f"{' and another '.join(others)}; name another directory, or remove that one"
            )


def find_left(profiles: Sequence[str]) -> Iterator[str]:
    """Yield which machines --keep-on-fail, --reuse or a fault left up, and how to take each away."""
    for name in profiles:
        if (state := ask_status(name)) != "down":
            yield f"{name} is {state}: ci/nox -s vms -- destroy {name}"


def make_plan(parser: argparse.ArgumentParser, chosen: argparse.Namespace, rest: Sequence[str]) -> Plan:
    """Return what the arguments ask for; ends with 2 and one line where they cannot be."""
    names = [name for text in chosen.profile or () for name in text.split(",")]
    # Each once, in the order given.
    profiles = tuple(dict.fromkeys(names)) or read_policy().profiles
    try:
        for name in profiles:
            vms.read(name)
    except vms.ProfileError as error:
        parser.error(str(error))
    if {"--last-failed", "--lf"} & set(rest):
        profiles = tuple(name for name in profiles if had_red(name, chosen.runtime)) or parser.error(
            "no host was red"
        )
    if chosen.jobs is not None and chosen.jobs < 1:
        parser.error(f"--jobs {chosen.jobs}: at least 1")
    if len(profiles) > 1 and "--shell-on-fail" in rest:
        parser.error("--shell-on-fail needs the terminal: name one host by --profile")
    started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%SZ")
    # One for all, so that a host that is red can be told from an order that is.
    seed = random.SystemRandom().randrange(100_000) if chosen.seed is None else chosen.seed
    return Plan(
        profiles,
        choose_jobs(chosen.jobs),
        (chosen.report_dir or REPORTS / started).absolute(),
        (f"--seed={seed}", f"--runtime={chosen.runtime}", *rest),
    )


def had_red(profile: str, runtime: str) -> bool:
    """Say whether the newest report about a host is not green; where there is none, its own process says so."""
    try:
        again.find_last_failed(REPORTS, profile, runtime)
    except again.NothingRed:
        return False
    except LookupError:
        return True
    return True


def become(plan: Plan) -> NoReturn:
    """Become the run of one host: its output is pytest's own, and a shell in the guest has the terminal."""
    os.chdir(ROOT)
    # As in `main`; what is ignored stays so across an execve.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv(sys.executable, plan.make_command(plan.profiles[0]))  # noqa: S606  # no shell is wanted


@contextlib.contextmanager
def viewed() -> Iterator[View]:
    """Return the board where there is a terminal that can redraw it, else the lines for a log."""
    if not (sys.stdout.isatty() and progress.can_redraw()):
        yield Lines()
        return
    board = progress.Board(sys.stdout)
    with board.progress:
        yield board


def read_own(plan: Plan, since: str) -> Json:
    """Return what the report says of this run's hosts; of an earlier run into the same directory, nothing.

    Raises:
        ReportError: What lies there is no report of this kit.
    """
    place = plan.reports / "report.json"
    if not place.exists():
        return {"profiles": []}
    report = read_report(place)
    # Times of one form, so that their order is that of the texts.
    own = [
        entry
        for entry in report["profiles"]
        if entry["profile"] in plan.profiles and entry["started"] >= since
    ]
    return report | {"profiles": own}


def describe(plan: Plan, report: Json, codes: dict[str, int], seconds: float) -> Iterator[str]:
    """Yield how each process closed, the matrix, and where the time went."""
    logs = {profile: plan.reports / f"{profile}.log" for profile in plan.profiles}
    lines = {profile: log.read_text(errors="replace").splitlines() for profile, log in logs.items()}
    told = {entry["profile"]: entry for entry in report["profiles"]}
    for profile in plan.profiles:
        yield f"{profile}: {logs[profile]} ends:"
        # A run that could not report says why in its last lines.
        yield from lines[profile][-1:] if profile in told else lines[profile][-TAIL_LINES:]
    yield from summary.summarise(report)
    # Over all hosts, for one waiver covers several; the runs had no fault to find with the file, or say so.
    with contextlib.suppress(CatalogueError):
        text = waivers.WAIVERS.read_text("utf-8")
        live = waivers.parse_waivers(text, today=None, known=read_catalogue())
        yield from waivers.describe_unneeded(live, report["profiles"])
    for profile, entry in told.items():
        yield from (f"{profile}: {line}" for line in summary.describe_time(entry))
    for profile in plan.profiles:
        if profile not in told:
            yield f"{profile}: NOT green: no report, exit code {codes[profile]}"
    yield f"all: {seconds:.0f} s for {len(plan.profiles)} hosts, {plan.jobs} at a time"
    yield f"{plan.reports / 'report.json'}, {plan.reports / 'index.html'}"
