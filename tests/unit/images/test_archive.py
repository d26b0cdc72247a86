"""Layers as streams: compressions, padding, and what is learnt in passing."""

import gzip
import io

import pytest
import zstandard

from locald.errors.images import DigestMismatch, LayerInvalid, MediaTypeUnsupported
from locald.images.archive import scan
from tests.unit.images.tars import digest_of, file, tar

LAYER = tar([file("a", b"1" * 100_000, uid=5, gid=6), file("b", uid=7, gid=0)])


def middle(content: bytes) -> tuple[bytes, bytes]:
    """Cut in two."""
    half = len(content) // 2
    return content[:half], content[half:]


@pytest.mark.parametrize(
    "stored",
    [
        LAYER,
        gzip.compress(LAYER),
        b"".join(gzip.compress(part) for part in middle(LAYER)),
        gzip.compress(LAYER) + bytes(700),
        zstandard.compress(LAYER),
        b"".join(zstandard.compress(part) for part in middle(LAYER)),
    ],
    ids=["plain", "gzip", "gzip members", "gzip padded", "zstd", "zstd frames"],
)
def test_every_compression(stored: bytes) -> None:
    """The first bytes decide, and all members and frames are read."""
    facts = scan(io.BytesIO(stored), digest_of(stored), digest_of(LAYER))
    assert (facts.uids, facts.gids) == ({5, 7}, {6, 0})


@pytest.mark.parametrize(
    "stored",
    [
        gzip.compress(LAYER)[:-9],
        gzip.compress(LAYER)[:-1],
        gzip.compress(LAYER) + b"garbage",
        gzip.compress(LAYER)[:50] + b"\xff" + gzip.compress(LAYER)[51:],
        zstandard.compress(LAYER)[:40],
        b"\x28\xb5\x2f\xfdgarbage",
    ],
)
def test_damaged_compression(stored: bytes) -> None:
    """Cut short, followed by noise, altered: refused, never taken as a shorter layer."""
    with pytest.raises((LayerInvalid, DigestMismatch)):
        scan(io.BytesIO(stored), digest_of(stored), digest_of(LAYER))


def test_an_empty_layer() -> None:
    """No byte, or only the end of an archive."""
    for content in (b"", bytes(1024)):
        assert scan(io.BytesIO(content), digest_of(content), digest_of(content)).uids == set()


def test_zstd_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by name."""
    import sys  # noqa: PLC0415

    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MediaTypeUnsupported, match="zstandard"):
        scan(io.BytesIO(zstandard.compress(LAYER)), digest_of(b""), digest_of(LAYER))
