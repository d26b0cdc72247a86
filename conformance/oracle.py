"""podman in the guest, as an oracle: python-on-whales drives it from here, and locald is compared with it.

python-on-whales runs a command line for each call. The command here is `python -m vms ssh … podman`, which quotes every
word for the shell at the other end, has a deadline, and tells a guest that is lost from a podman that failed; a bare
`ssh` does none of it (docs/decisions/0056).
"""

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from python_on_whales import DockerClient
from python_on_whales.exceptions import DockerException
from python_on_whales.utils import run as run_program

import vms
from conformance import inputs
from conformance.inputs import Entry
from conformance.subject import HOME, KitError, Result, Subject

TRAIT: Final = "oracle"
CALLER: Final = "plain"
PLACE: Final = f"{HOME}/oracle"
IMAGES: Final = f"{PLACE}/images"
CONTEXT: Final = f"{PLACE}/context"
ANSWERS: Final = f"{PLACE}/answers"
LIMIT_S: Final = 300.0
"""For one call of podman; an emulated one takes seconds to start, and a build is a container a step."""

READY: Final = "ready"
OBSERVE: Final = "/bin/observe"
BUSYBOX: Final = "/bin/busybox"
SAYS_LOST: Final = "vms: "
"""How `python -m vms` begins a line of its own, which is never podman's."""

OWN_FAILURE: Final = 125
"""podman's own failure, which it says on standard error (podman-run(1)); a payload may end with the same number."""

SAYS_FAILED: Final = "Error: "

CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "full": {
        "Entrypoint": [OBSERVE],
        "Cmd": ["glance"],
        "Env": ["IMAGE_SAYS=yes", "EMPTY=", "SPACED=two words", "EQUALS=a=b"],
        # Is in no layer: it has to be made.
        "WorkingDir": "/srv/made/deep",
    },
    "bare": {"Cmd": [OBSERVE, "glance"]},
    "named": {"Entrypoint": [OBSERVE], "Cmd": ["glance"], "User": "service", "Volumes": {"/srv/kept": {}}},
    "stops": {"Entrypoint": [OBSERVE], "Cmd": ["signals", "1"], "StopSignal": "SIGUSR1"},
}
"""The image config of each image; all have the same files."""

STORED: Final = "stored"
"""One more, which podman is not given: like `named`, with a layer that it has not seen and so has to read."""

PASSWD: Final = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nservice:x:999:998::/srv:/bin/sh\n"
GROUP: Final = b"root:x:0:\ndaemon:x:1:\nservice:x:998:\nstaff:x:50:service\n"
CONTAINERFILE: Final = f"""\
FROM scratch
COPY observe busybox /bin/
COPY etc /etc/
ENV BUILT=yes SPACED="two words" EMPTY=
WORKDIR /srv/work
RUN ["{BUSYBOX}", "sh", "-c", "echo kept > kept; echo gone > gone; mkdir opaque; echo lower > opaque/lower"]
RUN ["{BUSYBOX}", "sh", "-c", "rm gone; rm -r opaque; mkdir opaque; echo upper > opaque/upper; ln -s kept link"]
RUN ["{BUSYBOX}", "sh", "-c", "chmod 2750 opaque; chown 999:998 kept; chmod 600 kept"]
USER service:staff
STOPSIGNAL SIGUSR1
ENTRYPOINT ["{OBSERVE}"]
CMD ["glance"]
"""
"""With a file and a directory that a later step takes away: whiteouts of both kinds in the layers."""


def name_image(name: str) -> str:
    """Return what podman calls one of `CONFIGS`: a layout that it loads gets the name of its directory."""
    return f"localhost{IMAGES}/{name}"


def make_client(profile: str, *, user: str = CALLER) -> DockerClient:
    """Return the client of podman in the guest of a profile, as a user there."""
    ssh = [sys.executable, "-m", "vms", "ssh", f"--user={user}", f"--limit-s={LIMIT_S}", profile]
    return DockerClient(client_call=[*ssh, "--", "podman"], client_type="podman")


def install(guest: vms.Guest, cache: Path) -> dict[str, str]:
    """Put images and a build's context into the guest, and the images into podman; nothing on a host that is no oracle.

    Raises:
        inputs.InputError: Something could not be made, or podman did not take an image.
    """
    if TRAIT not in guest.profile.traits:
        return {}
    busybox = shutil.which("busybox")
    if busybox is None:
        raise inputs.InputError("busybox is not on this machine (Debian: busybox-static)")
    with inputs.locked(cache):
        observer = inputs.find_observer(cache).read_bytes()
    with tempfile.TemporaryDirectory(prefix="conformance-oracle-") as directory:
        stage = Path(directory)
        make_images(stage / "images", observer, Path(busybox).read_bytes())
        make_context(stage / "context", observer, Path(busybox).read_bytes())
        (stage / "answers").mkdir()
        guest.succeed(["rm", "-rf", PLACE], user="root")
        guest.push(stage, PLACE)
    guest.succeed(["chmod", "-R", "a+rX", PLACE], user="root")
    client = make_client(guest.profile.name)
    try:
        for name in CONFIGS:
            loaded = client.image.load(f"{IMAGES}/{name}", quiet=True)
            if loaded != [name_image(name)]:
                raise inputs.InputError(f"podman loaded {loaded}, not {name_image(name)}")
    except DockerException as error:
        raise inputs.InputError(f"podman took no image: {error}") from error
    versions = guest.succeed(["/bin/sh", "-c", "podman --version; crun --version | head -n 1"], user=CALLER)
    return {"oracle_version": ", ".join(versions.text.splitlines())}


def require_podman(guest: vms.Guest) -> None:
    """Ask podman for one container; nothing on a host that is no oracle.

    Raises:
        inputs.InputError: It does not end as it has to.
    """
    if TRAIT not in guest.profile.traits:
        return
    words = ("podman", "run", "--rm", "--network=host", "--pull=never", name_image("bare"))
    done = guest.run([*words, OBSERVE, "exit", "0"], user=CALLER, deadline=vms.Deadline.after(LIMIT_S))
    if done.exit_code != 0:
        raise inputs.InputError(f"podman's container ends with {done.exit_code}: {done.error_text}")


def demand_good(*results: Result) -> tuple[Result, ...]:
    """Return what podman's containers showed, each of which has to end with 0.

    Raises:
        KitError: One did not; there is nothing to compare with, which is no fault of the subject's.
    """
    for result in results:
        if result.exit_code != 0:
            raise KitError(f"podman's container does not end with 0: {result!r}")
    return results


def make_images(place: Path, observer: bytes, busybox: bytes) -> None:
    """Write the image of each of `CONFIGS` as a layout: files of several ids, a set-gid directory, a link."""
    entries = [
        *(Entry(name, mode=0o755, directory=True) for name in ("bin", "etc", "srv", "srv/kept")),
        Entry("tmp", mode=0o1777, directory=True),
        Entry("etc/passwd", PASSWD),
        Entry("etc/group", GROUP),
        Entry("bin/observe", observer, mode=0o755),
        Entry("bin/busybox", busybox, mode=0o755),
        Entry("srv/service", b"of 999\n", mode=0o640, uid=999, gid=998),
        Entry("srv/daemon", b"of 1\n", uid=1, gid=1),
        Entry("srv/shared", mode=0o2775, uid=0, gid=50, directory=True),
        Entry("srv/kept/seed", b"grows\n", uid=999, gid=998),
    ]
    layer = inputs.make_layer(entries)
    for name, config in CONFIGS.items():
        inputs.write_layout(place / name, [layer], config)
    other = inputs.make_layer([*entries, Entry("srv/stored", b"of the store\n")])
    inputs.write_layout(place / STORED, [other], CONFIGS["named"])


def make_context(place: Path, observer: bytes, busybox: bytes) -> None:
    """Write the context of a build."""
    (place / "etc").mkdir(parents=True)
    (place / "Containerfile").write_text(CONTAINERFILE)
    (place / "etc/passwd").write_bytes(PASSWD)
    (place / "etc/group").write_bytes(GROUP)
    for name, content in (("observe", observer), ("busybox", busybox)):
        (place / name).write_bytes(content)
        (place / name).chmod(0o755)


@dataclass
class Oracle:
    """podman in the guest, asked by one worker's tests.

    What it answered stays in the guest, beside the images that it was asked about. The other worker, the other mode and
    a fault that is planted in locald get the same answer: a container of podman's takes an emulated guest 5 s.
    """

    subject: Subject
    client: DockerClient

    def run(self, image: str, *args: str, **options: Any) -> Result:
        """Run a container to its end on the host's network; `options` are those of python-on-whales' `run`.

        Raises:
            KitError: The guest did not answer, or podman failed, which is not to be taken for the container's end.
        """
        given = {"networks": ["host"], "remove": True, "pull": "never", **options}
        said: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        exit_code = 0
        try:
            for source, line in cast(
                "Iterable[tuple[str, bytes]]",
                self.client.container.run(image, list(args), stream=True, **given),
            ):
                said[source].append(line)
        except DockerException as error:
            exit_code = error.return_code
        text = {name: b"".join(lines).decode(errors="surrogateescape") for name, lines in said.items()}
        if text["stderr"].startswith(SAYS_LOST):
            raise KitError(f"podman was not reached: {text['stderr']}")
        argv = ["podman", "run", *(f"{key}={value}" for key, value in options.items()), image, *args]
        says_failed = any(line.startswith(SAYS_FAILED) for line in text["stderr"].splitlines())
        if exit_code < 0 or (exit_code == OWN_FAILURE and says_failed):
            raise KitError(f"{' '.join(argv)}: podman failed with {exit_code}: {text['stderr']}")
        return self._note(argv, exit_code, text["stdout"], text["stderr"])

    def see(self, image: str, *args: str, **options: Any) -> Result:
        """As `run`; asked once for as long as the images are there, unless its end may be podman's own failure."""
        words = repr(("run", image, args, sorted(options.items())))
        return self._recall(words) or self._keep(words, self.run(image, *args, **options))

    def end(self, image: str, *args: str, **options: Any) -> Result:
        """Start a container, wait until it is ready, end it by `podman stop`, and return what it said; once, as `see`.

        Raises:
            KitError: podman could not do its part.
        """
        words = repr(("end", image, args, sorted(options.items())))
        return self._recall(words) or self._keep(words, self._end(image, *args, **options))

    def _end(self, image: str, *args: str, **options: Any) -> Result:
        name = self.subject.make_token()
        containers = self.client.container
        try:
            containers.run(
                image, list(args), name=name, detach=True, networks=["host"], pull="never", **options
            )
            deadline = vms.Deadline.after(LIMIT_S)
            while READY not in str(containers.logs(name)):
                if deadline.passed:
                    raise KitError(f"podman: {image} did not get ready")
                time.sleep(0.5)
            # Longer than anything takes: what its stop signal does not end is not to be killed.
            containers.stop(name, time=int(LIMIT_S / 2))
            code = containers.wait(name)
            said = str(containers.logs(name))
        except DockerException as error:
            raise KitError(f"podman failed: {error}") from error
        finally:
            self.forget(name)
        return self._note(["podman", "run, stop", image, *args], code, said)

    def forget(self, name: str) -> None:
        """Take a container away, whatever state it is in."""
        try:
            self.client.container.remove(name, force=True)
        except DockerException as error:
            raise KitError(f"podman keeps a container: {error}") from error

    def build(self, tag: str) -> None:
        """Build the image of `CONTEXT`; KitError if that fails."""
        try:
            self.client.legacy_build(CONTEXT, file=f"{CONTEXT}/Containerfile", tags=tag, network="host")
        except DockerException as error:
            raise KitError(f"podman built nothing: {error}") from error

    def call(self, *words: str) -> str:
        """Run podman with `words`: what python-on-whales has no method for. KitError if it fails."""
        try:
            return str(run_program([*self.client.client_config.docker_cmd, *words]))
        except DockerException as error:
            raise KitError(f"podman failed: {error}") from error

    def _recall(self, words: str) -> Result | None:
        """Return the answer that is kept, which becomes evidence of this test too."""
        kept = self.subject.guest.run(["cat", _place(words)], user="root")
        if kept.exit_code != 0:
            return None
        result = Result(json.loads(kept.stdout))
        self.subject.record(result)
        return result

    def _keep(self, words: str, result: Result) -> Result:
        # What podman's own failure might be is asked again: kept, it would stand for podman as long as the guest is up.
        if result.exit_code is None or result.exit_code < 0 or result.exit_code == OWN_FAILURE:
            return result
        self.subject.guest.push(json.dumps(dict(result.data)).encode(), _place(words))
        return result

    def _note(self, argv: Sequence[str], exit_code: int, stdout: str, stderr: str = "") -> Result:
        data = {
            "argv": list(argv),
            "user": CALLER,
            "exit_code": exit_code,
            "stdout": stdout,
            "stderr": stderr,
        }
        result = Result(data | {"problem": "", "timed_out": False, "leftover": []})
        self.subject.record(result)
        return result


def _place(words: str) -> str:
    return f"{ANSWERS}/{hashlib.sha256(words.encode()).hexdigest()[:16]}.json"
