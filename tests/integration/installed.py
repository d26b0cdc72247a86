"""locald as an ordinary user has it: a wheel, installed by pip, pipx or uv, and run as that user. Needs root."""

import base64
import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures import TestUser

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NETWORK_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY")
INSTALL_LIMIT_S = 600
RUN_LIMIT_S = 60


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Installed:
    """An installation of one user."""

    user: TestUser
    bin: Path

    @property
    def shim(self) -> Path:
        """The program beside `locald`."""
        return self.bin / "locald-shim"

    def start(
        self, *words: str, env: Mapping[str, str] | None = None, **options: object
    ) -> "subprocess.Popen[bytes]":
        """Start `locald WORDS` as the user, in a session of its own."""
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            [str(self.bin / "locald"), *words],
            **as_user(self.user, env or {}),
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def locald(self, *words: str, data: bytes = b"", env: Mapping[str, str] | None = None) -> Result:
        """Run `locald WORDS` as the user to its end."""
        done = self.start(*words, env=env, stdin=subprocess.PIPE)
        try:
            out, err = done.communicate(data, timeout=RUN_LIMIT_S)
        except subprocess.TimeoutExpired:
            done.kill()
            raise
        return Result(done.returncode, out.decode(errors="surrogateescape"), err.decode(errors="replace"))

    def set_up(self, *options: str) -> Result:
        """Run `admin setup` as sudo would for this user."""
        env = {"PATH": PATH, "SUDO_UID": str(self.user.uid), "HOME": "/root"}
        return _finish([str(self.bin / "locald"), "admin", "setup", *options], env=env)

    @property
    def bundles(self) -> Path:
        """Where this user's runs keep their bundles."""
        return self.user.home / ".cache/locald/bundles"


def as_user(user: TestUser, env: Mapping[str, str]) -> dict[str, object]:
    """Return what makes a child of this process the user's, with a clean environment."""
    environment = {"HOME": str(user.home), "PATH": PATH, "LANG": "C.UTF-8", "USER": user.name, **env}
    # How this machine reaches package indexes: an installer of the user's has to know it too.
    environment |= {name: os.environ[name] for name in NETWORK_VARIABLES if name in os.environ}
    return {"user": user.uid, "group": user.gid, "extra_groups": [], "env": environment, "cwd": "/"}


def run_as(user: TestUser, argv: Sequence[str], **env: str) -> Result:
    """Run a program as the user; it must succeed."""
    result = _finish(argv, **as_user(user, env))
    assert result.status == 0, (argv, result)
    return result


def build_wheel(directory: Path) -> Path:
    """Build the wheel of this tree with pip, as its README says."""
    _must([PYTHON, "-m", "venv", str(directory / "build")])
    pip = str(directory / "build/bin/pip")
    _must([pip, "wheel", "--quiet", "--no-deps", f"--wheel-dir={directory}", str(ROOT)])
    (wheel,) = directory.glob("*.whl")
    directory.chmod(0o755)
    return wheel


def make_newer(wheel: Path, version: str) -> Path:
    """Return the same wheel as if it were a later release, without building the shim again."""
    old = wheel.name.split("-")[1]
    newer = wheel.with_name(wheel.name.replace(f"-{old}-", f"-{version}-"))
    record: list[str] = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(newer, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            content = source.read(entry)
            entry.filename = entry.filename.replace(f"locald-{old}.", f"locald-{version}.")
            if entry.filename.endswith("dist-info/RECORD"):
                lines = [*record, f"{entry.filename},,"]
                target.writestr(entry, "".join(f"{line}\n" for line in lines))
                continue
            if entry.filename.endswith(("dist-info/METADATA", "locald/__init__.py")):
                content = content.replace(old.encode(), version.encode())
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{entry.filename},sha256={digest},{len(content)}")
            target.writestr(entry, content)
    return newer


def by_pip(user: TestUser, place: Path) -> Callable[[Path], Installed]:
    """Return what installs a wheel into a venv of the user's."""
    run_as(user, [PYTHON, "-m", "venv", str(place)])

    def install(wheel: Path) -> Installed:
        run_as(user, [str(place / "bin/pip"), "install", "--quiet", "--upgrade", str(wheel)])
        return Installed(user, place / "bin")

    return install


def by_pipx(user: TestUser, place: Path) -> Callable[[Path], Installed]:
    """Return what installs a wheel with pipx, which links it into a directory of its own."""
    run_as(user, [PYTHON, "-m", "venv", str(place)])
    run_as(user, [str(place / "bin/pip"), "install", "--quiet", "pipx"])

    def install(wheel: Path) -> Installed:
        env = {
            "PIPX_HOME": str(place / "home"),
            "PIPX_BIN_DIR": str(place / "links"),
            "PIPX_DEFAULT_PYTHON": PYTHON,
        }
        run_as(user, [str(place / "bin/pipx"), "install", "--quiet", "--force", str(wheel)], **env)
        assert (place / "links/locald").exists()
        return Installed(user, place / "home/venvs/locald/bin")

    return install


def by_uv(user: TestUser, place: Path) -> Callable[[Path], Installed]:
    """Return what installs a wheel with uv, which hard-links files to its cache."""
    run_as(user, [PYTHON, "-m", "venv", str(place)])
    run_as(user, [str(place / "bin/pip"), "install", "--quiet", "uv"])

    def install(wheel: Path) -> Installed:
        env = {
            "UV_TOOL_DIR": str(place / "tools"),
            "UV_TOOL_BIN_DIR": str(place / "links"),
            "UV_CACHE_DIR": str(place / "cache"),
            "UV_LINK_MODE": "hardlink",
        }
        command = ["tool", "install", "--quiet", "--force", f"--python={PYTHON}", str(wheel)]
        run_as(user, [str(place / "bin/uv"), *command], **env)
        return Installed(user, place / "tools/locald/bin")

    return install


INSTALLERS = {"pip": by_pip, "pipx": by_pipx, "uv": by_uv}


def fresh_place(user: TestUser, name: str) -> Path:
    """Return a path in the user's home where nothing is."""
    place = user.home / f"locald-test-{name}"
    shutil.rmtree(place, ignore_errors=True)
    return place


def _must(argv: Sequence[str]) -> None:
    result = _finish(argv, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    assert result.status == 0, (argv, result)


def _finish(argv: Sequence[str], **options: object) -> Result:
    done = subprocess.run(  # type: ignore[call-overload]
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=INSTALL_LIMIT_S, check=False, **options
    )
    return Result(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
