"""Whatever locald writes into a config.json, the shim's own parser and policy accept.

The judge is the real policy, as a program of shim/examples that no wheel holds. What it may refuse is
what only the user's own words can bring: those are listed here, each with the words.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locald import limits, oci, rootfs, spec
from locald.errors import LocaldError
from tests.unit.test_spec import IMAGES, TEXT

ROOT = Path(__file__).resolve().parents[2]
BUILD_LIMIT_S = 300
IDS = st.sampled_from([0, 1, 33, 999, 1000, 65_534]) | st.integers(0, 65_534)
PATHS = st.lists(TEXT.map(lambda text: text.replace("/", "")).filter(bool), min_size=1, max_size=3).map(
    lambda parts: spec.clean_path("/" + "/".join(parts))
)
# mountpoints.py lets a bind stand nowhere else.
FIXED = ("/proc", "/sys", "/dev")
DESTINATIONS = PATHS.filter(
    lambda path: path != "/" and not any(path == fixed or path.startswith(f"{fixed}/") for fixed in FIXED)
)
BINDS = st.lists(st.builds(spec.Bind, PATHS, DESTINATIONS, st.booleans()), max_size=4).map(tuple)
# The command line takes NAME=VALUE apart at the first `=`; a name is never empty.
NAMES = TEXT.map(lambda text: text.replace("=", "")).filter(bool)
# As `locald run` has them; a swap that is less than the memory is an error of the command line's.
SIZES = st.integers(1 << 20, 1 << 50)
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        "memory": SIZES.map(str),
        "memory_swap": st.sampled_from(["-1", "0"]) | SIZES.map(lambda size: str(size + (1 << 50))),
        "pids_limit": st.sampled_from(["-1", "0"]) | st.integers(1, limits.MOST_PIDS).map(str),
        "cpus": st.just("0")
        | st.integers(10, limits.MOST_CPUS * 1000).map(lambda thousandths: f"{thousandths / 1000:.3f}"),
        "cpu_shares": st.just("0") | st.integers(limits.LEAST_SHARES, limits.MOST_SHARES).map(str),
    },
)
OPTIONS = st.builds(
    spec.Options,
    mode=st.sampled_from(["mapped", "direct"]),
    command=st.lists(TEXT, max_size=4).map(tuple),
    entrypoint=st.none() | TEXT,
    environment=st.lists(st.tuples(NAMES, TEXT), max_size=4).map(tuple),
    workdir=st.none() | TEXT,
    network=st.sampled_from(["host", "none"]),
    hostname=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}", fullmatch=True),
    read_only=st.booleans(),
    terminal=st.booleans(),
    terminal_size=st.none() | st.tuples(st.integers(0, 65_535), st.integers(0, 65_535)),
    init=st.booleans(),
    resources=RESOURCES.filter(
        lambda asked: "memory" in asked or asked.get("memory_swap", "0") in ("0", "-1")
    ).map(limits.make_resources),
)
# What an image's own files can hold: a NUL, half a character, bytes that are no UTF-8, a table's separators.
ANY_TEXT = st.text(max_size=8) | st.sampled_from(["A=\0", "/\0", "\n", "A=\ud800", "\udc80"])
ANY_IMAGES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "Entrypoint": st.none() | st.lists(ANY_TEXT, max_size=2),
        "Env": st.none() | st.lists(ANY_TEXT, max_size=2),
        "WorkingDir": st.none() | ANY_TEXT.map("/{}".format),
    },
)
ANY_BYTES = st.binary(max_size=6) | st.sampled_from(
    [b"/\0", b"/a\nb", b"/\xff", b"\0", b"root", b"/" + 5000 * b"a"]
)
ENTRIES = st.builds(
    lambda name, uid, home, shell: b"%s:x:%d:%d:%s:%s:%s" % (name, uid, uid, name, home, shell),
    ANY_BYTES,
    st.sampled_from([0, 5]),
    ANY_BYTES | ANY_BYTES.map(b"/".__add__),
    ANY_BYTES,
)
CONFIG = oci.Descriptor("", oci.Digest.parse(f"sha256:{64 * '0'}"), 0)
# A working directory below /proc or /dev/fd, or with a component of more than 255 bytes: the user's or the
# image's own word, which the shim answers with this code.
ALLOWED_REFUSALS = {b"process.cwd"}


class Judge:
    """The shim's parser and policy as a program that answers one question after the other."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, close_fds=True
        )

    def ask(
        self, config: dict[str, Any], caller: spec.Caller, subuids: int, *, ranges: int = 1, groups: int = 0
    ) -> bytes:
        """Return `plan`, or the line of the refusal; the ids are in `ranges` ranges, the groups are the caller's."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # As bundle.py writes it: what is not UTF-8 goes on as the bytes that it was.
        text = json.dumps(config, ensure_ascii=False).encode("utf-8", "surrogateescape")
        counts = f"{subuids} {caller.subordinate_gids} {ranges} {groups}"
        head = f"{caller.uid} {caller.gid} {counts} {len(text)}\n"
        self._process.stdin.write(head.encode() + text)
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End the program by the end of its questions."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=10) == 0
        self._process.stdout.close()


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """The program, built as everything of the shim: from its lock file."""
    command = ["cargo", "build", "--quiet", "--locked", "--example=judge", "--message-format=json"]
    built = subprocess.run(
        command, cwd=ROOT / "shim", check=True, stdout=subprocess.PIPE, timeout=BUILD_LIMIT_S
    )
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    (program,) = {message["executable"] for message in messages if message.get("executable")}
    judge = Judge(Path(program))
    yield judge
    judge.close()


def ask(judge: Judge, image: dict[str, Any], options: spec.Options, **facts: Any) -> bytes | None:
    """Return the judge's answer; None where locald itself refuses to write a config."""
    caller = facts["caller"]
    account = facts["account"]
    if options.mode == "direct":
        account = spec.make_direct_account(account, caller, None)
    try:
        config = spec.make_runtime_config(
            image, options, account, caller, reference="image", binds=facts.get("binds", ())
        )
    except LocaldError:
        return None
    return judge.ask(
        config, caller, facts.get("subuids", 65_536), ranges=facts["ranges"], groups=facts["groups"]
    )


@pytest.mark.spawns
@settings(max_examples=200)
@given(
    image=IMAGES,
    options=OPTIONS,
    account=st.builds(spec.Account, IDS, IDS, st.lists(IDS, max_size=3).map(tuple), home=TEXT),
    caller=st.builds(
        spec.Caller,
        st.integers(1, 99_999),
        st.integers(1, 99_999),
        st.sampled_from([0, 1, 1000, 65_536]),
    ),
    binds=BINDS,
    ranges=st.integers(1, 5),
    groups=st.sampled_from([0, 1, 3, 32]),
)
def test_the_shim_accepts_what_locald_writes(
    judge: Judge,
    image: dict[str, Any],
    options: spec.Options,
    account: spec.Account,
    caller: spec.Caller,
    binds: tuple[spec.Bind, ...],
    ranges: int,
    groups: int,
) -> None:
    """For any image, options, account and caller."""
    answer = ask(
        judge, image, options, account=account, caller=caller, binds=binds, ranges=ranges, groups=groups
    )
    if answer not in (None, b"plan"):
        code = answer.split(b"[", 1)[1].split(b"]", 1)[0]
        assert code in ALLOWED_REFUSALS, answer


@pytest.mark.spawns
@settings(max_examples=200)
@given(
    inherited=ANY_IMAGES,
    passwd=st.lists(ENTRIES, max_size=3).map(b"\n".join),
    user=st.sampled_from(["", "0", "5", "root", "7:7"]),
    mode=st.sampled_from(["mapped", "direct"]),
)
def test_the_shim_accepts_what_locald_makes_of_any_image(
    judge: Judge,
    tmp_path_factory: pytest.TempPathFactory,
    inherited: dict[str, Any],
    passwd: bytes,
    user: str,
    mode: str,
) -> None:
    """Whatever bytes its config and its passwd hold: either locald refuses the image itself, or the shim takes it."""
    root = tmp_path_factory.getbasetemp() / "any"
    (root / "etc").mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_bytes(passwd)
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}, "config": inherited}
    manifest = oci.Manifest("", CONFIG, ())
    try:
        image, _, _ = oci.parse_config(json.dumps(document).encode(), manifest, "x")
        account = rootfs.find_account(os.fspath(root), user)
    except LocaldError:
        return
    options = spec.Options(mode=mode, command=("/bin/true",))
    caller = spec.Caller(1000, 1000, 65_536)
    answer = ask(judge, image, options, account=account, caller=caller, ranges=1, groups=0)
    if answer not in (None, b"plan"):
        assert answer.split(b"[", 1)[1].split(b"]", 1)[0] in ALLOWED_REFUSALS, answer


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"mounts": [{"destination": "/proc/x", "type": "bind", "source": "/x"}]}, b"mount.destination"),
        ({"hostname": "a b"}, b"config.hostname"),
        ({"annotations": {"dev.locald.init": "maybe"}}, b"config.annotation"),
    ],
)
def test_the_judge_judges(judge: Judge, config: dict[str, Any], code: bytes) -> None:
    """A judge that takes everything would make the property hold for nothing."""
    caller = spec.Caller(1000, 1000, 65_536)
    good = spec.make_runtime_config(
        {}, spec.Options(mode="mapped", command=("/bin/true",)), spec.Account(0, 0), caller, reference="x"
    )
    assert judge.ask(good, caller, 65_536) == b"plan"
    assert b"refused [" + code + b"]" in judge.ask({**good, **config}, caller, 65_536)
