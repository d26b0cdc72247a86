"""Bundles: what is in one, who may remove it, and what is left of a killed `locald`."""

import json
import os
import stat
from pathlib import Path

import pytest

from locald import bundle
from locald.errors.run import BundleUnwritable
from locald.host import Host
from locald.spec import Account

HOST = Host(1000, 1000, "ann", "/home/ann", "machine", b"nameserver 1.2.3.4\n", b"127.0.0.1 localhost\n")


def never(path: Path) -> None:
    """Stand for the shim's cleanup where nothing foreign is to be found."""
    raise AssertionError(path)


def test_a_bundle_is_private_and_goes_away(tmp_path: Path) -> None:
    """Mode 0700; after `remove` there is nothing, whatever modes the container left."""
    made = bundle.make_bundle(str(tmp_path / "a/bundles"))
    assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o700
    deep = Path(made.path, "rootfs/closed/inner")
    deep.mkdir(parents=True)
    deep.parent.chmod(0)
    made.remove(never)
    assert os.listdir(tmp_path / "a/bundles") == []


def test_config_json_holds_bytes(tmp_path: Path) -> None:
    """An argument that is not UTF-8 is written as the bytes that it is."""
    bundle.write_config(str(tmp_path), {"args": [os.fsdecode(b"a\xff\xfe"), 'quote"', "é"]})
    raw = (tmp_path / "config.json").read_bytes()
    assert raw == b'{"args":["a\xff\xfe","quote\\"","\xc3\xa9"]}'


def test_no_place_for_bundles_is_an_error_with_a_code(tmp_path: Path) -> None:
    """Something else has its name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleUnwritable) as caught:
        bundle.make_bundle(str(tmp_path / "file"))
    assert caught.value.code == "run.bundle"


def test_a_living_bundle_stays_and_a_dead_one_goes(tmp_path: Path) -> None:
    """The lock tells; what is no directory was not made here and stays."""
    living = bundle.make_bundle(str(tmp_path))
    dead = tmp_path / "0123"
    (dead / "rootfs").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    bundle.remove_dead_bundles(str(tmp_path), never)
    assert sorted(os.listdir(tmp_path)) == sorted([os.path.basename(living.path), "file"])
    living.remove(never)
    bundle.remove_dead_bundles(str(tmp_path / "absent"), never)


@pytest.mark.spawns
def test_the_container_of_a_dead_locald_is_ended_first(tmp_path: Path) -> None:
    """Whoever holds the other end of the FIFO is the shim, and gets KILL."""
    dead = tmp_path / "0123"
    dead.mkdir()
    reader, writer = bundle.open_status(str(dead))
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 3)])
    os.close(writer)
    os.close(reader)
    bundle.write_file(str(dead), bundle.SHIM_PID, str(pid).encode())
    bundle.remove_dead_bundles(str(tmp_path), never)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert os.listdir(tmp_path) == []


def test_a_shim_that_does_not_go_keeps_its_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is removed under a running container."""
    monkeypatch.setattr(bundle, "ORPHAN_LIMIT_S", 0.05)
    (tmp_path / "0123").mkdir()
    reader, writer = bundle.open_status(str(tmp_path / "0123"))
    bundle.remove_dead_bundles(str(tmp_path), never)
    assert os.listdir(tmp_path) == ["0123"]
    os.close(writer)
    os.close(reader)
    bundle.remove_dead_bundles(str(tmp_path), never)
    assert os.listdir(tmp_path) == []


def test_files_of_etc_are_podmans() -> None:
    """With the host's network the host's own, without one only the container's name."""
    near = bundle.make_etc(HOST, "box", "none")
    assert b"127.0.0.1\tbox\n" in near["hosts"]
    assert near["hostname"] == b"box\n"
    shared = bundle.make_etc(HOST, "machine", "host")
    assert (shared["hosts"], shared["resolv.conf"]) == (HOST.hosts, HOST.resolv_conf)


def test_the_caller_is_added_to_the_images_accounts() -> None:
    """Once, also behind a last line without a newline; who is there already keeps his name."""
    made = bundle.make_accounts(HOST, Account(1000, 1000, home="/root"), b"root:x:0:0::/:/bin/sh", b"")
    assert made["passwd"] == b"root:x:0:0::/:/bin/sh\nann:x:1000:1000:ann:/root:/bin/sh\n"
    assert made["group"] == b"ann:x:1000:\n"
    known = b"me:x:1000:5::/me:/bin/sh\n"
    assert bundle.make_accounts(HOST, Account(1000, 1000), known, b"g:x:1000:\n") == {
        "passwd": known,
        "group": b"g:x:1000:\n",
    }


def test_a_login_name_adds_one_line_only() -> None:
    """Names from directory services may hold a colon or a newline."""
    host = HOST._replace(user="a:b\nroot2:x:0")
    made = bundle.make_accounts(host, Account(1000, 1000), b"", b"")
    assert made["passwd"].count(b"\n") == 1
    assert json.dumps(made["passwd"].decode()).startswith('"caller:x:1000')
