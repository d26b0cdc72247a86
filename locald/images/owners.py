"""Who owns the files of an unpacked image on disk. Pure; imports nothing of locald."""

from collections.abc import Collection
from typing import NamedTuple, Self


class Owners(NamedTuple):
    """Either everything is the caller's (squashed), or each file has the owner that its container will show.

    In a mapped container the id `uid` is the caller and the others are his subordinate ids in order. A tree
    for it is made as root of a user namespace where 0 is the caller and k is his k-th subordinate id, so that
    an id of the image has another number there: `on_disk`.
    """

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def squashed(cls) -> Self:
        """Everything belongs to the caller: direct mode, and images of a single owner."""
        return cls()

    @classmethod
    def mapped(cls, uid: int, gid: int) -> Self:
        """In the container `uid` and `gid` are the caller's ids."""
        return cls(uid, gid)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote.

        Raises:
            ValueError: `text` is neither `squashed` nor `mapped-UID-GID`.
        """
        if text == "squashed":
            return cls()
        kind, uid, gid = text.split("-")
        if kind != "mapped":
            raise ValueError(text)
        return cls(int(uid), int(gid))

    def __str__(self) -> str:
        return "squashed" if self.uid is None else f"mapped-{self.uid}-{self.gid}"

    def reduced(self, uids: Collection[int], gids: Collection[int]) -> "Owners":
        """Return what is equal for files of these owners: squashed, if all of them are the caller anyway."""
        return Owners() if set(uids) <= {self.uid} and set(gids) <= {self.gid} else self

    def on_disk(self, uid: int, gid: int) -> tuple[int, int] | None:
        """Return the owner to give a file of `uid` and `gid`, or None for the caller."""
        if self.uid is None or self.gid is None:
            return None
        return _shift(uid, self.uid), _shift(gid, self.gid)


def _shift(image_id: int, caller: int) -> int:
    if image_id == caller:
        return 0
    return image_id + 1 if image_id < caller else image_id
