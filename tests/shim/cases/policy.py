"""Rule 55: root's policy file. Who may call, which modes run, and whose file it has to be."""

import os

from tests.shim.cases import forced
from tests.shim.harness import POLICY, Call, Run
from tests.shim.kernel import bind_over


def with_policy(run: Run, lines: str) -> Call:
    """Return a call for which the policy lets the caller in and has these lines too."""
    return replaced(run, f"version = 1\nallow-user = {run.caller.uid}\n{lines}")


def replaced(run: Run, text: str, *, owner: int = 0, mode: int = 0o644) -> Call:
    """Return a call for which the policy file is `text`, of that owner and mode."""
    holder = run.workshop.directory(run.caller) / "policy"
    step = bind_over(text, str(POLICY), holder)
    os.chown(holder, owner, 0)
    holder.chmod(mode)
    return Call(prepare=step)


def named_ones_are_let_in(run: Run) -> None:
    """By name, by number, by group."""
    for line in (
        f"allow-user = {run.caller.name}",
        f"allow-user = {run.caller.uid}  # him",
        f"allow-user = nobody\nallow-group = {run.caller.gid}",
    ):
        result = run("true", call=replaced(run, f"version = 1\n{line}\n"))
        assert result.status == 0, result


@forced("55-owner", twin=named_ones_are_let_in)
def a_policy_of_somebody_elses_counts_for_nothing(run: Run) -> None:
    """The caller's own file, and one that its group or everybody can write."""
    text = f"version = 1\nallow-user = {run.caller.uid}\n"
    for call in (
        replaced(run, text, owner=run.caller.uid),
        replaced(run, text, mode=0o664),
        replaced(run, text, mode=0o646),
    ):
        run.refused(run.bundle(), "shim.policy", call)


@forced("55-caller", twin=named_ones_are_let_in)
def strangers_are_refused(run: Run) -> None:
    """Nobody is let in by a neighbour's number or a name that is only like his."""
    for line in (
        "",
        f"allow-user = {run.caller.uid + 1000}",
        f"allow-user = {run.caller.name}x",
        f"allow-group = {run.caller.gid + 1000}",
        "allow-user = root\nallow-group = root",
    ):
        run.refused(run.bundle(), "shim.policy", replaced(run, f"version = 1\n{line}\n"))


def listed_modes_run(run: Run) -> None:
    """The one that is listed, alone or beside the other."""
    for modes in (run.mode, "direct mapped"):
        result = run("true", call=with_policy(run, f"modes = {modes}\n"))
        assert result.status == 0, result


@forced("55-modes", twin=listed_modes_run)
def other_modes_are_refused(run: Run) -> None:
    """Neither where the other one is listed nor where none is."""
    other = "direct" if run.mode == "mapped" else "mapped"
    for modes in (other, "none"):
        run.refused(run.bundle(), "policy.mode", with_policy(run, f"modes = {modes}\n"))
