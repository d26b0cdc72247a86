"""What a helper sees of the host: its own parts, what it works on, and the links on the way there."""

import json
import sys
from pathlib import Path

import pytest

from locald import helper, spec

CALLER = spec.Caller(1000, 1000)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """As on a host whose homes are elsewhere: home -> var/home, and a Python below a link of its own."""
    (tmp_path / "var/home/ann/store/work").mkdir(parents=True)
    (tmp_path / "home").symlink_to("var/home")
    (tmp_path / "opt/3.14/bin").mkdir(parents=True)
    (tmp_path / "opt/3.14/bin/python3").write_bytes(b"")
    (tmp_path / "opt/now").symlink_to(tmp_path / "opt/3.14")
    (tmp_path / "python").symlink_to("opt/now/bin/../bin/python3")
    return tmp_path


def shown(layout: helper.View) -> dict[str, bool]:
    """Return the places, and whether each is read-only; they are where they are on the host."""
    assert all(bind.source == bind.destination for bind in layout.binds)
    return {bind.source: bind.readonly for bind in layout.binds}


def test_every_link_on_the_way_is_there(host: Path) -> None:
    """Also one that a link leads to, and its `..`."""
    layout = helper.find_view([f"{host}/python"], [f"{host}/home/ann/store"])
    assert shown(layout) == {f"{host}/opt/3.14/bin/python3": True, f"{host}/var/home/ann/store": False}
    assert layout.links == {
        f"{host}/home": "var/home",
        f"{host}/python": "opt/now/bin/../bin/python3",
        f"{host}/opt/now": f"{host}/opt/3.14",
    }


def test_what_another_place_brings_along_is_not_bound_again(host: Path) -> None:
    """Neither places below one nor links in it; what is writable stays so in what is not."""
    home = f"{host}/var/home/ann"
    (Path(home) / "link").symlink_to("store")
    layout = helper.find_view([home, f"{home}/store", f"{home}/link"], [f"{home}/store/work"])
    assert shown(layout) == {home: True, f"{home}/store/work": False}
    assert (layout.links, layout.mountpoints) == ({}, (home,))
    assert shown(helper.find_view([home, f"{home}/store"], [home])) == {home: False}
    assert shown(helper.find_view([f"{home}/store/work"], [home, f"{home}/store"])) == {home: False}


def test_a_name_that_begins_alike_is_another_place(host: Path) -> None:
    """`lib` does not bring `lib64` along."""
    for name in ("lib", "lib64"):
        (host / name).mkdir()
    both = {f"{host}/lib": True, f"{host}/lib64": True}
    assert shown(helper.find_view(both, [])) == both


def test_what_is_missing_is_left_out_and_so_is_the_root(host: Path) -> None:
    """Not every host has each library directory; "" in sys.path is wherever the caller happens to be."""
    assert shown(helper.find_view(["/", "", "relative", f"{host}/absent", f"{host}/.."], [])) == {
        str(host.parent): True
    }


def test_this_python_and_this_package_are_among_it() -> None:
    """And the libraries that it is linked with."""
    layout = helper.find_view(helper.python_places(), [])
    for path in (sys.executable, helper.__file__, json.__file__, "/lib64"):
        real = str(Path(path).resolve())
        assert any(real == bind.source or real.startswith(f"{bind.source}/") for bind in layout.binds), path
    assert "/" not in shown(layout)


def test_the_bundle_has_a_place_for_all_of_it(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories, files and links; it is run as root of a user namespace, without network, with a read-only root."""
    # This Python's own may hold the directory of this test.
    monkeypatch.setattr(helper, "python_places", list)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    store = f"{host}/home/ann/store"
    helper.write_bundle(str(bundle), ["x", "y"], caller=CALLER, readable=[f"{host}/python"], writable=[store])
    root = f"{bundle}/rootfs"
    assert Path(f"{root}{host}/home").readlink() == Path("var/home")
    assert Path(f"{root}{host}/var/home/ann/store").is_dir()
    assert Path(f"{root}{host}/opt/3.14/bin/python3").is_file()
    assert all(Path(f"{root}/{name}").is_dir() for name in ("proc", "sys", "dev"))
    config = json.loads((bundle / "config.json").read_bytes())
    assert config["root"] == {"path": "rootfs", "readonly": True}
    assert {"type": "network"} in config["linux"]["namespaces"]
    assert config["process"]["args"] == ["x", "y"]
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    written = [mount["source"] for mount in config["mounts"] if "rw" in mount["options"]]
    assert written == [f"{host}/var/home/ann/store"]
