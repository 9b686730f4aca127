"""`by: caption`: pairs whose captions are equal in their normal form."""

from curate.duplicates import NORMAL_CAPTION, DuplicateKind
from curate.keys import Keys


class Caption(DuplicateKind):
    """Equal normal forms of the captions (`curate.captions`); needs no search."""

    name = "caption"
    about = "captions that are equal after normalisation: case, white space, quotation marks around, final punctuation"
    compares = NORMAL_CAPTION

    def words(self, keys: Keys) -> str:
        """See `DuplicateKind`."""
        del keys
        return NORMAL_CAPTION.equal


KIND = Caption()
