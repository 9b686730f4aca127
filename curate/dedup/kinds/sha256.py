"""`by: sha256`: images whose files had equal bytes."""

from curate.duplicates import IMAGE, DuplicateKind, Stored
from curate.keys import Keys


class Sha256(DuplicateKind):
    """Equal digests of the received bytes; needs no search."""

    name = "sha256"
    about = IMAGE.equal
    stored = Stored("sha256", digits=64)

    def words(self, keys: Keys) -> str:
        """See `DuplicateKind`."""
        del keys
        return IMAGE.equal


KIND = Sha256()
