"""The adapters: how each runtime is called, by whom, and what its config holds."""

import json
from pathlib import Path

import pytest

from conformance import peers
from conformance.clauses import read_catalogue
from conformance.runtimes import MODES, RUNTIMES, Caller, make_runtime

CALLER = Caller("plain", 1000, 1001, subuids=(100_000, 65_536), subgids=(200_000, 10))


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_is_known_and_judged(name: str) -> None:
    """It has a mode, and clauses are about it."""
    runtime = make_runtime(name, shim="/shim", peer="/peer")

    assert runtime.name == name
    assert runtime.program == ("/shim" if name == "locald-shim" else "/peer")
    assert set(runtime.modes) <= set(MODES)
    assert [clause for clause in read_catalogue().values() if clause.is_about(name)]


def test_another_runtime_is_refused() -> None:
    """With the names that there are."""
    with pytest.raises(ValueError, match="unknown runtime youki; there are locald-shim, runc, crun, twin"):
        make_runtime("youki", shim="", peer="")


def test_a_peer_gets_the_map_that_the_shim_makes() -> None:
    """Mapped: the caller calls it and is container root. Direct: root calls it, and the payload is the caller."""
    crun = make_runtime("crun", shim="", peer="/peer")
    mapped, direct = (crun.make_config(["/x"], mode=mode, caller=CALLER, init=False) for mode in MODES)

    assert [crun.choose_user("plain", mode=mode) for mode in MODES] == ["plain", "root"]
    assert mapped["linux"]["uidMappings"] == [
        {"containerID": 0, "hostID": 1000, "size": 1},
        {"containerID": 1, "hostID": 100_000, "size": 65_536},
    ]
    assert {"type": "user"} in mapped["linux"]["namespaces"]
    assert {"type": "user"} not in direct["linux"]["namespaces"]
    assert direct["process"]["user"] == {"uid": 1000, "gid": 1001}
    # Neither asks for a limit, nor sees the host's cgroups.
    for config in (mapped, direct):
        assert "resources" not in config["linux"]
        assert "cgroup" not in json.dumps(config["mounts"])


def test_a_config_is_the_callers_own() -> None:
    """What one test changes is not in the next one's."""
    crun = make_runtime("crun", shim="", peer="")
    first = crun.make_config(["/x"], mode="mapped", caller=CALLER, init=False)
    before = json.dumps(first)
    first["mounts"].clear()
    first["linux"]["maskedPaths"].clear()

    assert json.dumps(crun.make_config(["/x"], mode="mapped", caller=CALLER, init=False)) == before


LDD = """
\tlinux-vdso.so.1 (0x00007ffd9a5f2000)
\tlibyajl.so.2 => /lib/x86_64-linux-gnu/libyajl.so.2 (0x00007f6b4f6d2000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f6b4f2f1000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f6b4f760000)
"""


def test_a_program_brings_its_libraries(tmp_path: Path) -> None:
    """But for the C library's own, which are the guest's; a static program brings none."""
    static = tmp_path / "static"
    static.write_bytes(b"\x7fELF and no loader")

    assert peers.find_libraries(static) == []
    assert peers.parse_libraries(LDD) == [Path("/lib/x86_64-linux-gnu/libyajl.so.2")]
