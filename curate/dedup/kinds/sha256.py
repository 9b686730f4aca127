"""`by: sha256`: images whose files had equal bytes."""

from curate.duplicates import EQUAL_BYTES, DuplicateKind, Stored
from curate.keys import Keys


class Sha256(DuplicateKind):
    """Equal digests of the received bytes; needs no search."""

    name = "sha256"
    about = EQUAL_BYTES
    stored = Stored("sha256", digits=64)

    def words(self, keys: Keys) -> str:
        """See `DuplicateKind`."""
        del keys
        return EQUAL_BYTES


KIND = Sha256()
