"""One piece of work at a time beside a loop that goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """A thread. What its work raises is raised where the loop next looks at it; leaving only waits for it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._work: Future[None] | None = None

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def begin(self, work: Callable[[], None]) -> None:
        """Start; nothing else may be under way."""
        self._work = self._pool.submit(work)

    def busy(self) -> bool:
        """Whether it works; if no longer, raise what its work raised."""
        if self._work is not None and self._work.done():
            self.wait()
        return self._work is not None

    def wait(self) -> None:
        """Until its work is done; raise what that raised."""
        work, self._work = self._work, None
        if work is not None:
            work.result()
