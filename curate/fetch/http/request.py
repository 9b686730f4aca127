"""The state of one image's request, so that it can be put back into the queue and go on where it was."""

from curate.fetch.http.deadline import Deadline
from curate.fetch.http.urls import Target
from curate.fetch.polite.hosts import Stay


class Request:
    """One image's way over requests, redirects and retries.

    Args:
        url: the image's URL.
        row: its row in the part.

    Attributes:
        deadline: set when the first request begins.
        first: the parsed URL.
        target: what is requested next: the URL, or where it was redirected to.
        visited: what was requested before, of this try.
        tries: the number of this try, from 1 on.
        http_status: status of the last response.
        host: the last host.
        stay: the slot at the next host; another part of the program may own it (`borrowed`).
        borrowed: a stay that is used, and not given back here.
        passed_over: its part ended, and before that the image waited for its host while others were requested.
    """

    def __init__(self, url: str, row: int = 0) -> None:
        self.url = url
        self.row = row
        self.deadline: Deadline | None = None
        self.first: Target | None = None
        self.target: Target | None = None
        self.visited: set[Target] = set()
        self.tries = 1
        self.http_status: int | None = None
        self.host: str | None = None
        self.stay: Stay | None = None
        self.borrowed: Stay | None = None
        self.passed_over = False

    def leave(self) -> None:
        """Gives the slot back, where it is this request's own."""
        stay, self.stay = self.stay, None
        if stay is not None and stay is not self.borrowed:
            stay.leave()
