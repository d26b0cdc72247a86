"""Prove, in the guest, that the profile is in force: before the first clause and after the last.

The proof is `vms`' own; here it becomes part of the report. What is not proven makes the run INVALID.
"""

import vms
from conformance.report import Proof

SHOWN_CHARS = 2000


def prove(guest: vms.Guest) -> tuple[Proof, ...]:
    """Return every fact of the profile with what the guest showed.

    Raises:
        vms.GuestLost: It did not answer: an error of the run, which says nothing of the host.
    """
    return tuple(
        Proof(
            piece.fact,
            proven=piece.holds,
            observed=f"exit code {piece.exit_code}: {piece.stdout}\n{piece.stderr}".strip()[:SHOWN_CHARS],
            says=piece.says,
            command=piece.command,
            user=piece.user,
            expected=piece.expected,
            exit_code=piece.exit_code,
            seconds=piece.seconds,
        )
        for piece in vms.prove(guest).evidence
    )
