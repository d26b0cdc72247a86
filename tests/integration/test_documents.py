"""What README.md, the guides and examples/ show: every command that a reader may type is run, here or by a named test.

Those of a `console` block are the lines behind `$ `. A new one that nothing below knows makes this file red.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.installed import PATH, ROOT, Installed, Result, run_as

pytestmark = pytest.mark.root
LIMIT_S = 120
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs/manual/guides").glob("*.md"))]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Commands that another test runs: whoever changes one looks there. What they need is not to be had twice in a test run.
ELSEWHERE = {
    r"pipx install \.": "tests/integration/test_install.py [pipx]",
    r"pipx install \./locald-\*\.whl": "tests/integration/test_install.py [pipx]",
    r"uv tool install \./locald-\*\.whl": "tests/integration/test_install.py [uv]",
    r"python3 -m venv ~/locald && ~/locald/bin/pip install \./locald-\*\.whl": "tests/integration/test_install.py",
    r"sudo ~/\.local/bin/locald admin setup": "tests/integration/test_sudo_prompt.py",
    r"locald run docker\.io/library/\S+ -- .*": "tests/integration/images/test_registry.py, conformance",
    r"locald rmi docker\.io/library/\S+": "tests/integration/images, test_run.py",
    r"pipx uninstall locald": "pipx itself",
    r"sudo rm -r /etc/locald": "rm itself; without a policy: tests/shim, rule shim.policy",
    r"ci/nox -s \w+": "this run; tests/unit/ci",
}
# Commands that these transcripts show with what they print.
TRANSCRIPT = {
    "cd examples/hello && ./make-image hello": r"",
    "locald run oci:hello": r"hello from pid 2, uid 0\n",
    "locald run --mode direct oci:hello": r"hello from pid 2, uid \d+\n",
    "locald run oci:hello -- sh -c 'exit 7'; echo $?": r"7\n",
    "locald doctor": r"(?s).*ok .*",
}


def commands_of(document: Path) -> list[str]:
    """Return what a document shows behind `$ `, without the remarks."""
    lines = [line for block in BLOCK.findall(document.read_text()) for line in block.splitlines()]
    return [re.sub(r"\s+# .*", "", line[2:]).strip() for line in lines if line.startswith("$ ")]


@pytest.fixture
def examples(installed: Installed) -> Path:
    """A copy of examples/ in the user's home, and his."""
    place = installed.user.home / "locald-test-examples"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(ROOT / "examples", place / "examples")
    for path in (place, *place.rglob("*")):
        os.chown(path, installed.user.uid, installed.user.gid)
    return place


def type_in(installed: Installed, directory: Path, command: str) -> Result:
    """Run a line as the user's shell would."""
    script = f"cd {directory} && {command}"
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        user=installed.user.uid,
        group=installed.user.gid,
        extra_groups=[],
        env={"HOME": str(installed.user.home), "PATH": f"{installed.bin}:{PATH}", "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_is_known(document: Path) -> None:
    """It is run below, or by the test that stands beside its pattern."""
    unknown = [
        command
        for command in commands_of(document)
        if command not in TRANSCRIPT and not any(re.fullmatch(pattern, command) for pattern in ELSEWHERE)
    ]
    assert unknown == []


def test_no_pattern_is_left_over() -> None:
    """What no document shows any more is not listed."""
    shown = [command for document in DOCUMENTS for command in commands_of(document)]
    assert [name for name in TRANSCRIPT if name not in shown] == []
    assert [p for p in ELSEWHERE if not any(re.fullmatch(p, command) for command in shown)] == []


def test_the_transcript_of_the_readme(installed: Installed, examples: Path) -> None:
    """In order, by an ordinary user, with the output that it shows."""
    directory = examples
    for command, printed in TRANSCRIPT.items():
        result = type_in(installed, directory, command)
        assert result.status == 0, (command, result)
        assert re.fullmatch(printed, result.out), (command, result)
        if command.startswith("cd "):
            directory = directory / command.split()[1]


def test_direct_mode_says_who_the_user_is(installed: Installed, examples: Path) -> None:
    """The line on stderr that the transcript shows."""
    line = "./make-image hello && locald run --mode direct oci:hello"
    result = type_in(installed, examples / "examples/hello", line)
    name, uid = installed.user.name, installed.user.uid
    assert result.err == f"locald: the image's user 'root' runs as you, {name} (uid {uid})\n"


def test_the_example_of_a_bundle(installed: Installed, examples: Path) -> None:
    """The shim alone, a bundle by hand: host name, uid, and a map of which root is you."""
    result = type_in(installed, examples / "examples/bundle", "./run")
    assert result.status == 0, result
    name, uid, *first = result.out.split()
    assert (name, uid) == ("by-hand", "0")
    assert first[:3] == ["0", str(installed.user.uid), "1"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_line(installed: Installed, shell: str) -> None:
    """What the guide says to put into a start-up file is a script of that shell's; test_completion.py presses Tab."""
    said = run_as(installed.user, [f"{installed.bin}/locald", "completion", shell])
    syntax = ["/usr/bin/env", shell, "-n", "/dev/stdin"]
    done = subprocess.run(
        syntax, input=said.out, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
