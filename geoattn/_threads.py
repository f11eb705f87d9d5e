"""Threads that compute and read: a plain pool, since kernels and decoders release the interpreter lock.

None works on after the call that asked for it, however that ends: what an error or an interrupt (Ctrl-C)
stops is waited for first. Numba's own parallel loops are not used: their layers either forbid use after a
fork (data loading workers fork) or use from two threads at once (autograd runs backward passes in a thread
of its own).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class _Job:
    """One task that several threads run at once, each until no work is left."""

    def __init__(self, task: Callable[[], object]) -> None:
        self.task = task
        self.lock = threading.Lock()
        self.closed = False
        self.started = 0
        self.finished: SimpleQueue[BaseException | None] = SimpleQueue()

    def help(self) -> None:
        """Take part, unless the caller has already seen the last of the work."""
        with self.lock:
            if self.closed:
                return
            self.started += 1
        error: BaseException | None = None
        try:
            self.task()
        except BaseException as raised:
            error = raised
        self.finished.put(error)

    def close(self) -> None:
        """Wait for those that took part; threads that wake later are not waited for.

        An interrupt (Ctrl-C) that comes meanwhile is raised at the end: the caller's buffers must live
        until the last thread has left them, and compiled code cannot be stopped.
        """
        interrupt: BaseException | None = None
        while not self.closed:
            try:
                with self.lock:
                    self.closed = True
            except BaseException as raised:
                interrupt = raised
        errors: list[BaseException | None] = []
        while len(errors) < self.started:
            try:
                errors.append(self.finished.get())
            except BaseException as raised:
                interrupt = raised
        for error in (interrupt, *errors):
            if error is not None:
                raise error


_jobs: SimpleQueue[_Job] = SimpleQueue()
_helpers = 0
_helpers_lock = threading.Lock()


def _serve(jobs: SimpleQueue[_Job]) -> None:
    while True:
        jobs.get().help()


def _forget() -> None:
    """A forked child inherits no threads: start over."""
    global _jobs, _helpers, _helpers_lock
    _jobs, _helpers, _helpers_lock = SimpleQueue(), 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run(task: Callable[[], object], threads: int) -> None:
    """Run the same task in so many threads at once, the calling one among them.

    The task takes shares of the work from a counter until none is left, so that it does not matter
    how many threads come, or when.
    """
    global _helpers
    if threads <= 1:
        task()
        return
    with _helpers_lock:
        while _helpers < threads - 1:
            threading.Thread(target=_serve, args=(_jobs,), daemon=True, name="geoattn").start()
            _helpers += 1
    job = _Job(task)
    try:
        for _ in range(threads - 1):
            _jobs.put(job)
        task()
    finally:
        job.close()


def run_all(tasks: Iterable[Callable[[], object]], threads: int) -> None:
    """Run tasks, each once, in up to so many threads; an error or an interrupt leaves the rest undone."""
    todo = deque(tasks)

    def work() -> None:
        while True:
            try:
                task = todo.popleft()
            except IndexError:
                return
            try:
                task()
            except BaseException:
                todo.clear()
                raise

    run(work, min(threads, len(todo)))


@contextlib.contextmanager
def one_ahead(items: Iterable[_T]) -> Iterator[Iterator[_T]]:
    """The same items, each made in a thread of its own while the one before is used.

    The thread ends with the block.
    """
    source, end = iter(items), object()
    asked, made = SimpleQueue[bool](), SimpleQueue[tuple[Any, BaseException | None] | None]()

    def make() -> None:
        while asked.get():
            try:
                made.put((next(source, end), None))
            except BaseException as error:
                made.put((end, error))
        made.put(None)

    def taken() -> Iterator[_T]:
        asked.put(True)
        while found := made.get():
            item, error = found
            if error is not None:
                raise error
            if item is end:
                return
            asked.put(True)
            yield item

    threading.Thread(target=make, daemon=True, name="geoattn-ahead").start()
    try:
        yield taken()
    finally:
        asked.put(False)
        interrupt: BaseException | None = None
        while True:  # to join a thread is not enough: an interrupted join takes it for ended
            try:
                if made.get() is None:
                    break
            except BaseException as raised:
                interrupt = raised
        if interrupt is not None:
            raise interrupt
