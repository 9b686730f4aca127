"""Normalises received bytes in decoding processes: what ends its process is `undecodable`, and nothing else happens."""

import sys
from dataclasses import replace

from curate.decoding.pool import Decoders, DecodingFault, Lost
from curate.fetch.contract import FetchError
from curate.fetch.pictures import normalise_job
from curate.fetch.pictures.phash_blocklist import PhashBlocklist
from curate.fetch.pictures.picture import Picture, Refused
from curate.fetch.settings import Settings


class NormalisingDecoders:
    """Normalises as `normalise.Normaliser` does, in processes of their own. Thread-safe. A `contract.Normalise`.

    Args:
        settings: size, resize mode, format, quality and the limit on pixels.
        count: the most processes at once; each is started when it is first needed.
        listed: hashes of pictures that are refused; hashes are computed only where there are any.
    """

    def __init__(self, settings: Settings, count: int, listed: PhashBlocklist | None = None) -> None:
        self._listed = listed or PhashBlocklist()
        self._parameters = normalise_job.parameters(settings, with_phash=bool(listed))
        self._decoders = Decoders(normalise_job.NAME, count)

    def __call__(self, data: bytes) -> Picture:
        """Normalises one image.

        Raises:
            FetchError: class not_an_image, too_large, undecodable or blocked_phash; or internal, where Curate's own
                code fails, whose traceback is printed.
        """
        try:
            picture = self._decoders.one(self._parameters, data, normalise_job.read)
        except Lost as lost:
            raise FetchError("undecodable", str(lost)) from lost
        except DecodingFault as fault:
            print(fault, file=sys.stderr)
            raise FetchError("internal", f"a fault of decoding: {str(fault).strip().rpartition(chr(10))[2]}") from fault
        if isinstance(picture, Refused):
            raise FetchError(picture.error_class, str(picture))
        entry = self._listed.near(picture.phash) if picture.phash else None
        if entry:
            raise FetchError("blocked_phash", entry)
        return picture if picture.data else replace(picture, data=data)

    def close(self) -> None:
        """Ends the processes."""
        self._decoders.close()
