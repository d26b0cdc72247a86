"""The signed statement: which bytes the verdicts of a report hold for, as in-toto wants it, in a DSSE envelope.

An in-toto Statement v1 with the predicate test-result v0.1. Making one is pure; the statement follows from the report
byte for byte, so a reader makes it again and compares.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from conformance.report import Json
from conformance.verdicts import GREEN, Verdict

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://in-toto.io/attestation/test-result/v0.1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
ENVELOPE_NAME: Final = "report.intoto.json"
# What people and CI services read in the report's stead: made of it, so that it follows from it, but not byte for byte
# (compressed by whatever zlib there was), and so with a digest of its own. Media types.
RENDERED: Final = {"index.html": "text/html", "junit.xml": "application/xml"}
# What is said of no product is no failure of it.
_FINE: Final = GREEN | {Verdict.NOT_APPLICABLE}
# What of a host goes into the statement; the rest is in the report, whose digest is there.
_HOST_FACTS: Final = ("guest_kernel", "system", "box", "policy_version", "policy_sha256")


class StatementError(Exception):
    """A key, an envelope or a statement is not what it has to be; the message is one line."""


def make_statement(
    report: Json, report_bytes: bytes, *, expires: str, rendered: Mapping[str, str] | None = None
) -> Json:
    """Return the statement about a report.

    Args:
        report: What `report_bytes` say.
        report_bytes: The file, exactly.
        expires: When it stops to count, ISO 8601 in UTC.
        rendered: The SHA-256 of those of `RENDERED` that are beside it.
    """
    profiles = report["profiles"]
    named: dict[Verdict, list[str]] = {}
    for entry in profiles:
        for clause in entry["clauses"]:
            named.setdefault(Verdict(clause["verdict"]), []).append(f"{entry['profile']}/{clause['id']}")
    warned = named.get(Verdict.WAIVED, [])
    failed = [name for verdict, names in named.items() if verdict not in _FINE for name in names]
    result = "FAILED" if not report["green"] else "WARNED" if warned or failed else "PASSED"
    return {
        "_type": STATEMENT_TYPE,
        "subject": _list_subjects(profiles),
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": result,
            "configuration": [
                {
                    "name": "report.json",
                    "mediaType": "application/json",
                    "digest": {"sha256": hashlib.sha256(report_bytes).hexdigest()},
                    "annotations": {"schema": report["schema"], "run": report["run"], "expires": expires},
                },
                *(
                    {"name": name, "mediaType": RENDERED[name], "digest": {"sha256": digest}}
                    for name, digest in sorted((rendered or {}).items())
                ),
                *(_describe_host(entry) for entry in profiles),
            ],
            "passedTests": sorted(named.get(Verdict.PASS, [])),
            "warnedTests": sorted(warned),
            "failedTests": sorted(failed),
        },
    }


def _list_subjects(profiles: Iterable[Json]) -> list[Json]:
    """Return every wheel and shim that a verdict is about, once each."""
    found: dict[tuple[str, str], None] = {}
    for entry in profiles:
        facts = entry["subject"]
        if digest := facts.get("wheel_sha256"):
            found[facts.get("wheel", "wheel"), digest] = None
        for key in ("wheel_shim_sha256", "installed_shim_sha256"):
            if digest := facts.get(key):
                found["locald-shim", digest] = None
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in found]


def _describe_host(entry: Json) -> Json:
    facts, kit = entry["subject"], entry["kit"]
    about = {key: facts[key] for key in _HOST_FACTS if key in facts}
    about |= {f"kit_{key}": str(value) for key, value in sorted(kit.items())}
    about |= {"seed": str(entry["seed"]), "runtime": entry["runtime"], "finished": entry["finished"]}
    made: Json = {"name": f"profile/{entry['profile']}", "annotations": about}
    return made | ({"digest": {"sha256": facts["box_sha256"]}} if "box_sha256" in facts else {})


def sign(statement: Json, key: Path) -> bytes:
    """Return the envelope, signed with the private ed25519 key in a file (PEM, or as ssh-keygen writes it).

    Raises:
        StatementError: The file holds no such key, or one with a passphrase.
    """
    try:
        content = key.read_bytes()
        load = (
            serialization.load_ssh_private_key
            if b"OPENSSH PRIVATE KEY" in content
            else serialization.load_pem_private_key
        )
        private = load(content, None)
    except OSError as error:
        raise StatementError(f"{key}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StatementError(f"{key}: not a private key without a passphrase") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise StatementError(f"{key}: not an ed25519 key")
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(private))
    return (json.dumps(envelope.to_dict(), indent=1) + "\n").encode()


def read_public_key(path: Path) -> Key:
    """Return the public ed25519 key in a file (PEM, or a line as ssh-keygen writes it).

    Raises:
        StatementError: The file holds none.
    """
    try:
        content = path.read_bytes()
        load = (
            serialization.load_ssh_public_key
            if content.startswith(b"ssh-")
            else serialization.load_pem_public_key
        )
        public = load(content)
    except OSError as error:
        raise StatementError(f"{path}: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StatementError(f"{path}: not a public key") from error
    if not isinstance(public, Ed25519PublicKey):
        raise StatementError(f"{path}: not an ed25519 key")
    return SSlibKey.from_crypto(public)


def open_envelope(content: bytes, keys: list[Key]) -> tuple[Json, str]:
    """Return the statement in an envelope, and why its signature does not count (empty if it does).

    Raises:
        StatementError: It is no envelope of a statement.
    """
    try:
        document: Any = json.loads(content)
        envelope = Envelope.from_dict(document)
        statement = json.loads(envelope.payload)
    # The library takes a dictionary of a certain form and raises whatever comes of another one.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SigningError) as error:
        raise StatementError(f"not a DSSE envelope: {type(error).__name__}") from error
    if envelope.payload_type != PAYLOAD_TYPE or not isinstance(statement, dict):
        raise StatementError(f"the envelope holds {envelope.payload_type!r}, not {PAYLOAD_TYPE}")
    if not keys:
        return statement, "no key is trusted: give --key, or put one into conformance/release/keys"
    try:
        envelope.verify(keys, 1)
    except (ValueError, SigningError):
        return statement, "the signature is not by a trusted key over these bytes"
    return statement, ""
