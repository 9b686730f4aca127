"""Applies a function to many items, several at a time and in order: a remote store answers slowly, but many at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 8
"""Items that are worked on at the same time."""

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Iterable[T], at_once: int = AT_ONCE) -> Iterator[R]:
    """Yields a function's results in the order of its arguments.

    Not more than `at_once` results wait at a time, so memory does not grow with the number of items.

    Args:
        work: called in a thread.
        items: its arguments; the next one is taken when a thread is free for it.
        at_once: the number of threads.
    """
    with ThreadPoolExecutor(at_once) as pool:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) == at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
