"""Files are written by a thread of their own while the next ones are computed."""

import queue
import threading
from collections.abc import Callable


class BackgroundWriter:
    """Runs tasks one after the other in a thread.

    pending: how many tasks may wait; `put` blocks beyond that, so that a slow disk does not fill the memory
    An error of a task is raised by the next `put` or by `finish`, and the tasks after it are dropped. As a context
    manager it waits for the tasks that were put, also where the block fails; `finish` alone raises their errors.
    """

    def __init__(self, pending: int = 2):
        self._tasks: queue.Queue[Callable[[], object] | None] = queue.Queue(pending)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def put(self, task: Callable[[], object]) -> None:
        """Have `task` run; raises the error of an earlier one."""
        self._raise()
        self._tasks.put(task)

    def finish(self) -> None:
        """Wait until all is done; raises the error of a task."""
        self._tasks.put(None)
        self._thread.join()
        self._raise()

    def __enter__(self) -> "BackgroundWriter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._tasks.put(None)
            self._thread.join()

    def _work(self) -> None:
        # After an error the queue is still emptied: `put` must never wait for a thread that has gone.
        while (task := self._tasks.get()) is not None:
            if self._error is None:
                try:
                    task()
                except Exception as error:
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
