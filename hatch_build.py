"""Build locald-shim with cargo and put it into the wheel beside the `locald` command.

Runs in the build's own environment: imports hatchling and the standard library only.
Why hatchling and a hook: docs/decisions/0010-packaging.md.
"""

import hashlib
import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIM_NAME = "locald-shim"
BUILD_LIMIT_S = 900
# What only the builds hold that tests make for themselves, and the flag that made them: the variable by which rules are
# switched off, and the code of a program that cannot count.
MUTANT_SWITCH = b"LOCALD_SHIM_DISABLE_RULE"
COVERAGE_CODE = b"coverage.file"
TEST_BUILDS = {MUTANT_SWITCH: "locald_mutants", COVERAGE_CODE: "locald_coverage"}


class ShimBuildError(Exception):
    """The shim could not be built; the message is the one line that a user needs."""


class ShimBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's own parameter is its config class
    """Adds the shim to `bin/` of a wheel, a standard or an editable one."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the shim and name it in the wheel's data; `version` (standard, editable) changes nothing."""
        del version
        executable = build_shim(Path(self.root) / "shim")
        build_data["shared_scripts"][str(executable)] = SHIM_NAME
        build_data["pure_python"] = False
        # A static program without a run-time dependency: any Python 3, any libc, this platform.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"


def build_shim(source: Path) -> Path:
    """Run cargo in `source` and return the program that it built.

    Raises:
        ShimBuildError: The sources or cargo are missing, cargo failed (its own words are on stderr), or the
            program is one of the builds that only tests make.
    """
    if not (source / "Cargo.toml").is_file():
        raise ShimBuildError(f"{source}/Cargo.toml is missing: without the shim's sources there is no wheel.")
    command = ["cargo", "build", "--release", "--locked", "--message-format=json-render-diagnostics"]
    # Only with debug assertions can a build be broken or counted (src/lib.rs): no variable and no config brings them.
    command.append("--config=profile.release.debug-assertions=false")
    environment = {**os.environ, "LOCALD_SHIM_SOURCE_DIGEST": source_digest(source)}
    try:
        # RUSTFLAGS would silently replace what shim/.cargo/config.toml sets, static linking among it.
        environment.pop("RUSTFLAGS", None)
        built = subprocess.run(  # noqa: S603  # a constant argv
            command,
            cwd=source,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=BUILD_LIMIT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise ShimBuildError(
            "cargo is not installed. Building locald needs Rust (Debian: apt install cargo; else https://rustup.rs)."
        ) from error
    if built.returncode != 0:
        raise ShimBuildError(f"`{' '.join(command)}` in {source} ended with status {built.returncode}.")
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == SHIM_NAME:
            executable = message.get("executable")
            if executable is not None:
                refuse_test_build(Path(executable))
                return Path(executable)
    raise ShimBuildError(f"cargo built no program named {SHIM_NAME} in {source}.")


def refuse_test_build(executable: Path) -> None:
    """Refuse a program whose rules can be switched off, or that counts where it was.

    The sources refuse both in a release build (src/lib.rs). Flags come from more places than can be emptied
    (CARGO_ENCODED_RUSTFLAGS, CARGO_BUILD_RUSTFLAGS, any config file of cargo's above the sources or in its home) and
    can claim that it is none (`-C debug-assertions`), so the program is asked too.

    Raises:
        ShimBuildError: It holds what only such builds hold.
    """
    program = executable.read_bytes()
    for mark, flag in TEST_BUILDS.items():
        if mark in program:
            raise ShimBuildError(
                f"{executable} was built with `--cfg {flag}`: look for it in CARGO_*RUSTFLAGS and cargo's configs."
            )


def source_digest(source: Path) -> str:
    """Return the hex sha256 over the shim's sources, which `locald-shim version` then reports.

    Each file counts with its name and its length, so no two trees share an input by running together.
    """
    files = [source / name for name in ("Cargo.toml", "Cargo.lock", "build.rs", ".cargo/config.toml")]
    files += [path for path in (source / "src").rglob("*") if path.is_file()]
    digest = hashlib.sha256()
    for path in sorted(files):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(source).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()
