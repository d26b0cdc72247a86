"""The caller works against his own leaf while the shim makes it: he gains nothing, and nothing is left.

cgroup v2 knows neither links nor renames, so what he can do to a name is to remove the cgroup and make another, and
what he can do to the shim is to move it within his own subtree (attack 29).
"""

import os
import subprocess

import pytest

from tests.shim.delegation import able, delegated, hierarchy, limited
from tests.shim.harness import Call, Caller, Mode, Run, Shim, Workshop

ROUNDS = 100
# Not the one of this test, which may lie where the caller cannot reach it.
PYTHON = "/usr/bin/python3"
# Removes and makes the leaf, and moves whatever is in `own`, until its input ends; then says how often it could.
# Between two blows it waits as long as a whole run takes, or half, or not at all, so that each step of the shim is
# met; without a pause a fast machine lets no run through, and what happens later would never be raced.
HOSTILE = """
import os, random, select, sys
top, leaf = sys.argv[1:]
own, other, hits = f"{top}/own", f"{top}/other", [0, 0]
os.mkdir(other)
print("ready", flush=True)
while not select.select([0], [], [], random.choice((0, random.uniform(0, 0.006))))[0]:
    for source, target in ((own, other), (other, own)):
        for pid in open(f"{source}/cgroup.procs").read().split():
            try:
                open(f"{target}/cgroup.procs", "w").write(pid)
                hits[0] += 1
            except OSError:
                pass
    try:
        os.rmdir(leaf)
        os.mkdir(leaf)
        hits[1] += 1
    except OSError:
        pass
for path in (leaf, other):
    try:
        os.rmdir(path)
    except OSError:
        pass
print(*hits)
"""


def cgroups_elsewhere() -> set[str]:
    """Return the cgroups with a name of ours that do not lie where they may."""
    found = {path for path, _, _ in os.walk(hierarchy()) if os.path.basename(path).startswith("locald-")}
    return {path for path in found if not path.startswith(str(hierarchy() / "locald-test-"))}


@pytest.mark.parametrize("user", ["locald-a"])
def test_a_leaf_that_is_removed_and_made_again(
    mutant: Shim, workshop: Workshop, callers: dict[str, Caller], mode: Mode, user: str
) -> None:
    """The payload runs in a cgroup of the caller's subtree, or not at all."""
    base = able(Run(mutant, workshop, mode, callers[user]))
    assert base is not None
    bundle = limited(base, "cat", "/proc/self/cgroup")
    bundle.write()
    with delegated(base) as place:
        leaf = place.top / "locald-raced.leaf"
        hostile = subprocess.Popen(
            [PYTHON, "-I", "-c", HOSTILE, str(place.top), str(leaf)],
            user=base.caller.uid,
            group=base.caller.gid,
            extra_groups=[],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert hostile.stdout is not None
        assert hostile.stdout.readline() == "ready\n"
        outcomes: dict[tuple[int, str | None], int] = {}
        try:
            for _ in range(ROUNDS):
                call = place.call(container="raced")
                result = base.shim.call(base.shim.arguments(bundle, call), base.caller, call)
                outcomes[result.status, result.code] = outcomes.get((result.status, result.code), 0) + 1
                # Inside, there is no other cgroup than the one that the payload is in.
                assert result.status != 0 or "0::/\n" in result.text, result
        finally:
            told, _ = hostile.communicate("\n", timeout=20)
        moves, replaced = map(int, told.split())
        assert set(outcomes) <= {(0, None), (125, "resources.leaf"), (125, "id.in-use")}, outcomes
        assert outcomes.get((0, None), 0) > 0, outcomes
        assert moves > 0, "nothing was raced"
        assert replaced > 0, "nothing was raced"
        assert base.shim.call(["cleanup"], base.caller, Call()).status == 0
        assert place.leaves() == []
        assert cgroups_elsewhere() == set()
