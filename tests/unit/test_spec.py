"""The runtime config as a function of image, options, account and caller."""

import json
import os
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locald import spec
from locald.errors.run import CommandMissing, UserUnmappable, WorkingDirectoryUnusable

CALLER = spec.Caller(uid=1000, gid=1000, subordinate_gids=65536)
ROOT = spec.Account(0, 0, home="/root")
IDS = st.integers(0, 65534)
# Any bytes but NUL, as a command line brings them.
TEXT = st.binary(max_size=20).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
IMAGES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "config": st.fixed_dictionaries(
            {},
            optional={
                "Entrypoint": st.none() | st.lists(TEXT, max_size=3),
                "Cmd": st.none() | st.lists(TEXT, max_size=3),
                "Env": st.none() | st.lists(TEXT, max_size=5),
                "WorkingDir": st.just("") | TEXT.map(lambda text: "/" + text),
                "Labels": st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
                "StopSignal": TEXT,
                "Volumes": st.none() | st.dictionaries(TEXT, st.just({}), max_size=3),
            },
        )
    }
)
OPTIONS = st.builds(
    spec.Options,
    mode=st.sampled_from(["mapped", "direct"]),
    command=st.lists(TEXT.filter(bool), min_size=1, max_size=3).map(tuple),
    entrypoint=st.none() | st.just("") | TEXT,
    environment=st.lists(st.tuples(TEXT.filter(bool), TEXT), max_size=3).map(tuple),
    workdir=st.none() | TEXT.map(lambda text: "/" + text),
    network=st.sampled_from(["host", "none"]),
    read_only=st.booleans(),
    terminal=st.booleans(),
    init=st.booleans(),
)


def image(**inner: Any) -> dict[str, Any]:
    """Return an image config with these members inherited by containers."""
    return {"architecture": "amd64", "os": "linux", "config": inner}


def config(
    options: spec.Options, account: spec.Account = ROOT, *, binds: tuple[spec.Bind, ...] = (), **inner: Any
) -> dict[str, Any]:
    """Return the runtime config of an image with these members."""
    return spec.make_runtime_config(image(**inner), options, account, CALLER, reference="x", binds=binds)


@given(IMAGES, OPTIONS, IDS, IDS, st.lists(IDS, max_size=4))
def test_every_config_is_one_the_shim_can_read(
    image_config: dict[str, Any], options: spec.Options, uid: int, gid: int, groups: list[int]
) -> None:
    """Whatever the image says: known members only, forced ones always, integers, absolute paths."""
    account = spec.Account(uid, gid, tuple(groups))
    try:
        made = spec.make_runtime_config(image_config, options, account, CALLER, reference="x")
    except CommandMissing:
        return
    assert json.loads(json.dumps(made)) == made
    assert set(made) == {"ociVersion", "root", "hostname", "process", "mounts", "linux", "annotations"}
    kinds = [namespace["type"] for namespace in made["linux"]["namespaces"]]
    assert {"pid", "mount", "ipc", "uts"} <= set(kinds)
    assert len(kinds) == len(set(kinds))
    assert ("user" in kinds) == (options.mode == "mapped") == ("uidMappings" in made["linux"])
    assert ("network" in kinds) == (options.network == "none")
    process = made["process"]
    assert process["noNewPrivileges"] is True
    assert process["args"][0]
    assert process["cwd"].startswith("/")
    assert not {"", ".", ".."} & set(process["cwd"][1:].split("/")) or process["cwd"] == "/"
    assert all(entry.find("=") > 0 for entry in process["env"])
    assert any(entry.startswith("PATH=") for entry in process["env"])


@given(IDS, IDS)
def test_whoever_runs_is_the_caller(uid: int, gid: int) -> None:
    """In mapped mode process.user's ids are the caller's, so what it writes into a bind is his."""
    made = config(spec.Options(mode="mapped", command=("x",)), spec.Account(uid, gid))
    assert made["linux"]["uidMappings"] == [{"containerID": uid, "hostID": 1000, "size": 1}]
    assert made["linux"]["gidMappings"] == [{"containerID": gid, "hostID": 1000, "size": 1}]
    assert (made["process"]["user"]["uid"], made["process"]["user"]["gid"]) == (uid, gid)


@given(st.lists(IDS, max_size=6).map(tuple), IDS, st.integers(0, 70000))
def test_needed_ids_are_the_least_that_map_all(ids: tuple[int, ...], own: int, granted: int) -> None:
    """`needed_ids` and `is_mapped` say the same."""
    needed = spec.needed_ids(ids, own)
    assert all(spec.is_mapped(number, own, needed) for number in ids)
    assert (granted >= needed) == all(spec.is_mapped(number, own, granted) for number in ids)


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "asked_entrypoint", "asked", "expected"),
    [
        (["e"], ["c"], None, (), ["e", "c"]),
        (["e"], ["c"], None, ("x",), ["e", "x"]),
        (["e"], ["c"], "n", (), ["n"]),
        (["e"], ["c"], "n", ("x",), ["n", "x"]),
        (["e"], ["c"], "", ("x",), ["x"]),
        (None, ["c", "d"], None, (), ["c", "d"]),
        (None, None, None, ("x",), ["x"]),
    ],
)
def test_the_command_is_put_together_as_docker_does(
    entrypoint: list[str] | None,
    cmd: list[str] | None,
    asked_entrypoint: str | None,
    asked: tuple[str, ...],
    expected: list[str],
) -> None:
    """Entrypoint and Cmd of the image, --entrypoint and the words of the user."""
    options = spec.Options(mode="direct", command=asked, entrypoint=asked_entrypoint)
    assert spec.make_command(image(Entrypoint=entrypoint, Cmd=cmd), options, "x") == expected


@pytest.mark.parametrize("inner", [{}, {"Entrypoint": [], "Cmd": None}, {"Cmd": [""]}])
def test_no_command_is_an_error_that_names_the_image(inner: dict[str, Any]) -> None:
    """Neither the image nor the user says what to run."""
    with pytest.raises(CommandMissing, match="some-image") as caught:
        spec.make_command(image(**inner), spec.Options(mode="direct"), "some-image")
    assert caught.value.code == "run.no-command"


def test_the_environment_is_the_images_then_the_users() -> None:
    """PATH, HOME and CNB_PLATFORM_API where the image lacks them; nothing else; the user's word last."""
    options = spec.Options(mode="direct", environment=(("A", "user"), ("B", "=x")))
    account = spec.Account(1, 1, home="/h")
    made = spec.make_environment(image(Env=["A=image", "C=", "NOVALUE", "=x"]), options, account)
    assert made == ["A=user", "C=", f"PATH={spec.DEFAULT_PATH}", "HOME=/h", "B==x"]
    own = spec.make_environment(image(Env=["PATH=/x", "HOME=/y"]), spec.Options(mode="direct"), account)
    assert own == ["PATH=/x", "HOME=/y"]


def test_a_buildpack_image_knows_its_platform_api() -> None:
    """By its label; a value of the image's own stays."""
    labelled = {"Labels": {"io.buildpacks.lifecycle.metadata": "{}"}}
    options = spec.Options(mode="direct")
    assert "CNB_PLATFORM_API=0.7" in spec.make_environment(image(**labelled), options, ROOT)
    own = spec.make_environment(image(Env=["CNB_PLATFORM_API=0.12"], **labelled), options, ROOT)
    assert [entry for entry in own if entry.startswith("CNB_")] == ["CNB_PLATFORM_API=0.12"]


def test_term_is_set_with_a_terminal_only() -> None:
    """And its size becomes consoleSize."""
    made = config(spec.Options(mode="direct", command=("x",), terminal=True, terminal_size=(80, 24)))
    assert "TERM=xterm" in made["process"]["env"]
    assert made["process"]["consoleSize"] == {"height": 24, "width": 80}
    plain = config(spec.Options(mode="direct", command=("x",)))
    assert "consoleSize" not in plain["process"]
    assert not any(entry.startswith("TERM=") for entry in plain["process"]["env"])


def test_root_of_a_container_has_capabilities_and_nobody_else_does() -> None:
    """Another user has only their bound; direct mode names none at all."""
    mapped = spec.Options(mode="mapped", command=("x",))
    assert config(mapped)["process"]["capabilities"]["effective"] == spec.CAPABILITIES
    assert config(mapped, spec.Account(5, 5))["process"]["capabilities"]["effective"] == []
    assert "capabilities" not in config(mapped._replace(mode="direct"))["process"]


def test_groups_that_have_no_id_are_left_out() -> None:
    """Without subordinate gids a container has none of the image's further groups; direct mode never has."""
    account = spec.Account(0, 0, groups=(5, 70000))
    mapped = spec.Options(mode="mapped", command=("x",))
    assert config(mapped, account)["process"]["user"]["additionalGids"] == [5]
    made = spec.make_runtime_config(image(), mapped, account, spec.Caller(1, 1, 0), reference="x")
    assert "additionalGids" not in made["process"]["user"]
    assert "additionalGids" not in config(mapped._replace(mode="direct"), account)["process"]["user"]


@pytest.mark.parametrize(
    ("asked", "inner", "expected"),
    [
        (None, {}, "/"),
        (None, {"WorkingDir": ""}, "/"),
        (None, {"WorkingDir": "/a//b/../c/"}, "/a/c"),
        ("/x", {"WorkingDir": "/a"}, "/x"),
        ("//", {}, "/"),
        ("/../..", {}, "/"),
    ],
)
def test_the_working_directory_is_clean(asked: str | None, inner: dict[str, Any], expected: str) -> None:
    """Absolute, without `.`, `..` and a final slash: the shim wants it so."""
    assert spec.make_workdir(image(**inner), spec.Options(mode="direct", workdir=asked)) == expected


def test_a_relative_working_directory_is_refused() -> None:
    """From the user and from the image alike."""
    with pytest.raises(WorkingDirectoryUnusable):
        spec.make_workdir(image(WorkingDir="a"), spec.Options(mode="direct"))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (None, signal.SIGTERM),
        ("SIGQUIT", signal.SIGQUIT),
        ("quit", signal.SIGQUIT),
        ("28", signal.SIGWINCH),
        ("SIGRTMIN+3", signal.SIGTERM),
        ("9", signal.SIGTERM),
        ("٣", signal.SIGTERM),
    ],
)
def test_stop_signals_are_those_that_the_shim_forwards(name: str | None, number: int) -> None:
    """By name with and without SIG, or by number; TERM for what cannot be forwarded."""
    assert spec.make_stop_signal(image(**({} if name is None else {"StopSignal": name}))) == number


def test_direct_mode_runs_as_the_caller() -> None:
    """The image's user becomes the caller, with its home; an explicit other one is refused."""
    meant = spec.Account(0, 0, (1, 2), "/root")
    assert spec.make_direct_account(meant, CALLER, None) == spec.Account(1000, 1000, (), "/root")
    assert spec.make_direct_account(spec.Account(1000, 1000), CALLER, "1000:1000").uid == 1000
    with pytest.raises(UserUnmappable) as caught:
        spec.make_direct_account(meant, CALLER, "root")
    assert caught.value.code == "user.unmappable"


def test_binds_become_mounts_in_their_order() -> None:
    """Recursive, private, nosuid, nodev, and read-only where asked for."""
    binds = (spec.Bind("/s", "/d"), spec.Bind("/t", "/d/e", readonly=True))
    made = config(spec.Options(mode="direct", command=("x",)), binds=binds)["mounts"]
    assert [mount["destination"] for mount in made] == ["/d", "/d/e"]
    assert made[1]["options"] == ["rbind", "rprivate", "nosuid", "nodev", "ro"]


def test_volumes_are_absolute_clean_and_ordered() -> None:
    """Parents first; the root and relative names are no volumes."""
    assert spec.volumes(image(Volumes={"/b/c": {}, "/b/": {}, "x": {}, "/": {}})) == ["/b", "/b/c"]
    assert spec.volumes({}) == []
