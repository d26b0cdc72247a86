"""DISC: which file `locald` takes for its shim, and what it says of one that it may not trust."""

from typing import Any, Final

import pytest

from conformance.subject import HOME, PREFIX, Job, Subject, copy_installation

SMALL: Final = f"oci:{HOME}/images/small"
SEVEN: Final = ("--", "/bin/observe", "exit", "7")
MARK: Final = "a decoy ran"
DECOY: Final = f"#!/bin/sh\\necho {MARK} >&2\\nexit 55\\n"


def arrange(subject: Subject, tamper: str, *, after: str = "") -> tuple[str, str, str]:
    """Return a private copy of the installation's place and the scripts that make, tamper with and remove it."""
    prefix = f"/opt/locald-{subject.make_token()}"
    before = f"P={prefix}; S=$P/bin/locald-shim; {copy_installation(prefix)}{tamper}"
    return prefix, before, f"P={prefix}; {after or 'true'}; rm -rf {prefix}"


def tampered(subject: Subject, tamper: str, *, after: str = "", **more: Any) -> Job:
    """Return the job that runs an image from a copy of the installation that was tampered with."""
    prefix, before, closing = arrange(subject, tamper, after=after)
    return subject.locald(
        "run", "--no-input", SMALL, *SEVEN, prefix=prefix, before=before, after=closing, **more
    )


def prefix_of(job: Job) -> str:
    """Return where the copy of the installation is that a job runs."""
    program: str = job["argv"][0]
    return program.removesuffix("/bin/locald")


def assert_decoy_is_not_taken(subject: Subject, *jobs: Job) -> None:
    """Judge that each job ran the payload by the installed shim, beside which a decoy waited."""
    for result in subject.call(*jobs):
        assert result.exit_code == 7, result  # the payload's
        assert MARK not in result.stderr


@pytest.mark.clause("DISC-001")
def test_path_does_not_count(subject: Subject) -> None:
    """A locald-shim that stands first on PATH is not taken."""
    job = tampered(
        subject, f"mkdir $P/decoy; printf '{DECOY}' > $P/decoy/locald-shim; chmod 755 $P/decoy/locald-shim"
    )
    prefix = prefix_of(job)
    job["env"] = job["env"] | {"PATH": f"{prefix}/decoy:/usr/bin:/bin"}

    assert_decoy_is_not_taken(subject, job)


@pytest.mark.clause("DISC-002")
def test_the_working_directory_does_not_count(subject: Subject) -> None:
    """A locald-shim in the working directory, or in bin/ below it, is not taken."""
    job = tampered(
        subject,
        f"mkdir -p $P/cwd/bin; printf '{DECOY}' > $P/cwd/locald-shim\n"
        "cp $P/cwd/locald-shim $P/cwd/bin/; chmod -R 755 $P/cwd",
    )
    prefix = prefix_of(job)
    job["argv"] = ["/bin/sh", "-c", f'cd {prefix}/cwd && exec "$@"', "sh", *job["argv"]]

    assert_decoy_is_not_taken(subject, job)


@pytest.mark.clause("DISC-003")
def test_argv0_and_links_do_not_count(subject: Subject) -> None:
    """A symbolic link to locald beside a decoy, and a false argv[0], do not lead to the decoy."""
    make = (
        f"mkdir $P/decoy; printf '{DECOY}' > $P/decoy/locald-shim\n"
        "chmod 755 $P/decoy/locald-shim; ln -s $P/bin/locald $P/decoy/locald"
    )
    linked, named = tampered(subject, make), tampered(subject, make)
    prefix = prefix_of(linked)
    linked["argv"] = [f"{prefix}/decoy/locald", *linked["argv"][1:]]
    prefix = prefix_of(named)
    named["argv"] = ["/bin/bash", "-c", f'exec -a {prefix}/decoy/locald "$@"', "sh", *named["argv"]]

    assert_decoy_is_not_taken(subject, linked, named)


@pytest.mark.clause("DISC-004")
def test_the_environment_does_not_count(subject: Subject) -> None:
    """No variable names another shim or prefix, nor another record of an installation, of this version or of another.

    A whole package in the place of this one is something else: that is a program of his own, which he runs as himself
    (docs/decisions/0011).
    """
    record = "bin/locald,,\\nbin/locald-shim,,\\n"
    job = tampered(
        subject,
        f"mkdir -p $P/decoy/bin; printf '{DECOY}' > $P/decoy/bin/locald-shim\n"
        "chmod 755 $P/decoy/bin/locald-shim; cp $P/decoy/bin/locald-shim $P/decoy/\n"
        "OWN=$(ls -d $P/lib/python3*/site-packages/locald-*.dist-info)\n"
        "LIB=$P/decoy/${OWN#$P/}; SITE=${LIB%/*}; mkdir -p $SITE\n"
        "for made in $P/decoy/${OWN##*/} $P/decoy/locald-9.dist-info $SITE/${OWN##*/} $SITE/locald-9.dist-info; do\n"
        "    mkdir $made; sed 's/^Version:.*/Version: 9/' $OWN/METADATA > $made/METADATA\n"
        f"    printf '{record}' > $made/RECORD\n"
        "done",
    )
    decoy = prefix_of(job) + "/decoy"
    shim = f"{decoy}/bin/locald-shim"
    job["env"] = job["env"] | {
        "LOCALD_SHIM": shim,
        "LOCALD_SHIM_PATH": shim,
        "LOCALD_SHIM_BIN": shim,
        "LOCALD_RUNTIME": shim,
        "LOCALD_PREFIX": decoy,
        "VIRTUAL_ENV": decoy,
        "PIPX_HOME": decoy,
        "XDG_BIN_HOME": f"{decoy}/bin",
        "PYTHONPATH": decoy,
        "PYTHONUSERBASE": decoy,
    }

    assert_decoy_is_not_taken(subject, job)


def assert_not_trusted(
    subject: Subject, code: str, tamper: str, *, after: str = "", mend: bool = True
) -> None:
    """Judge that a sibling which was tampered with is refused with its code, the mend and nothing executed."""
    job = tampered(subject, tamper, after=after, trace=True)
    (result,) = subject.call(job)
    prefix = prefix_of(job)

    assert result.outcome == (125, code), result
    assert not [program for _, program in result.executed if "shim" in program], result.executed
    if mend:
        # By its absolute path: sudo's secure_path knows no venv.
        assert f"sudo {prefix}/bin/locald admin setup" in result.stderr, result


@pytest.mark.clause("DISC-005")
def test_a_missing_sibling(subject: Subject) -> None:
    """No file beside locald: shim.missing; also a link or a directory in its place."""
    assert_not_trusted(subject, "shim.missing", "rm $S", mend=False)
    assert_not_trusted(subject, "shim.missing", f"ln -sf {PREFIX}/bin/locald-shim $S", mend=False)
    assert_not_trusted(subject, "shim.missing", "rm $S; mkdir $S", mend=False)


@pytest.mark.clause("DISC-006")
def test_a_sibling_without_the_setuid_bit(subject: Subject) -> None:
    """A sibling that is not setuid: shim.not-setuid."""
    assert_not_trusted(subject, "shim.not-setuid", "chmod 0755 $S")


@pytest.mark.clause("DISC-007")
def test_a_sibling_that_is_not_roots(subject: Subject) -> None:
    """A setuid sibling of an ordinary user: shim.owner."""
    assert_not_trusted(subject, "shim.owner", "chown plain $S; chmod 4755 $S")


@pytest.mark.clause("DISC-008")
def test_a_sibling_that_others_can_write(subject: Subject) -> None:
    """A sibling that its group or everybody can write: shim.writable."""
    assert_not_trusted(subject, "shim.writable", "chmod 4775 $S")
    assert_not_trusted(subject, "shim.writable", "chmod 4757 $S")


@pytest.mark.clause("DISC-009")
def test_a_sibling_with_another_name(subject: Subject) -> None:
    """A sibling with a second hard link: shim.linked."""
    assert_not_trusted(subject, "shim.linked", "ln $S $P/kept")


@pytest.mark.clause("DISC-010")
def test_a_sibling_on_a_nosuid_mount(subject: Subject) -> None:
    """A sibling on a file system mounted nosuid: shim.nosuid, with where to install instead."""
    assert_not_trusted(
        subject,
        "shim.nosuid",
        "mount --bind $P $P; mount -o remount,bind,nosuid $P",
        after="umount $P",
        mend=False,
    )


@pytest.mark.clause("DISC-011")
def test_who_is_not_in_the_policy_is_told_so(subject: Subject) -> None:
    """`locald run` by somebody whom the policy does not name ends with shim.policy and the mend."""
    (result,) = subject.call(subject.locald("run", "--no-input", SMALL, *SEVEN, user="nobody"))

    assert result.outcome == (125, "shim.policy"), result
    assert "admin setup" in result.stderr


@pytest.mark.clause("DISC-012")
def test_a_sibling_that_speaks_otherwise(subject: Subject) -> None:
    """A trusted sibling whose protocol is another: shim.outdated, before anything is run."""
    (result,) = subject.call(tampered(subject, f"cp {HOME}/oldshim $S.new; chmod 4755 $S.new; mv $S.new $S"))

    assert result.outcome == (125, "shim.outdated"), result
