"""`by: sha256`: images whose files had equal bytes."""

from curate.duplicates import DuplicateKind
from curate.keys import Keys


class Sha256(DuplicateKind):
    """Equal digests of the received bytes; needs no search."""

    name = "sha256"
    about = "equal bytes"

    def words(self, keys: Keys) -> str:
        """See `DuplicateKind`."""
        del keys
        return "equal bytes"


KIND = Sha256()
