"""The threads that compute and read: every share once, errors and interrupts, and nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn import _threads
from geoattn.plans import builder
from geoattn.tasks.panoramas.rendering import render


def test_every_share_of_work_is_done_once_whoever_comes():
    for count in (1, 2, 5):
        done = []
        _threads.run_all([partial(done.append, n) for n in range(1000)], count)
        assert sorted(done) == list(range(1000))


def test_an_error_in_any_thread_reaches_the_caller():
    meeting = threading.Barrier(2)
    caller = threading.get_ident()

    def task():
        meeting.wait(timeout=30)  # both take part
        if threading.get_ident() != caller:
            raise ArithmeticError("not mine to swallow")

    with pytest.raises(ArithmeticError, match="not mine"):
        _threads.run(task, 2)


def test_an_error_leaves_the_rest_undone():
    done = []

    def fail():
        raise ArithmeticError("the first")

    with pytest.raises(ArithmeticError, match="the first"):
        _threads.run_all([fail, *(partial(done.append, n) for n in range(100))], 1)
    assert not done


def test_items_are_made_one_ahead_and_errors_come_in_their_place():
    made = []

    def items():
        for n in range(3):
            made.append((n, threading.current_thread() is threading.main_thread()))
            yield n
        raise ArithmeticError("the fourth")

    with _threads.one_ahead(items()) as ahead:
        assert next(ahead) == 0
        assert next(ahead) == 1
        assert next(ahead) == 2
        with pytest.raises(ArithmeticError, match="the fourth"):
            next(ahead)
    assert made == [(0, False), (1, False), (2, False)]


# --- interrupts -------------------------------------------------------------------------------------


def planned(tmp_path, monkeypatch, slowed):
    hood = ga.geodesic(ga.grids.healpix(16), radius=10.0)
    monkeypatch.setattr(builder, "_EDGES_AT_ONCE", 1000)
    monkeypatch.setattr(type(hood), "rows", slowed(type(hood).rows))
    return lambda: builder.build(hood, 32, 1)


def stored(tmp_path):
    xr = pytest.importorskip("xarray", reason="the bridge needs xarray")
    grid = ga.grids.gaussian(8, 16)
    values = np.random.default_rng(0).standard_normal((12, 8, 16)).astype(np.float32)
    time_axis = np.datetime64("2001-01-01", "ns") + np.arange(12) * np.timedelta64(6, "h")
    coords = {"time": time_axis, "latitude": grid.lat_axis, "longitude": grid.lon_axis}
    ds = xr.Dataset({"t": (("time", "latitude", "longitude"), values)}, coords)
    ds.to_zarr(tmp_path / "in.zarr", encoding={"t": {"chunks": (1, 8, 16)}})
    return tmp_path / "in.zarr", ga.xarray.Schema.of(ds)


def summed(tmp_path, monkeypatch, slowed):
    path, schema = stored(tmp_path)
    from geoattn.xarray.stores.reader import Reader

    monkeypatch.setattr(Reader, "read", slowed(Reader.read))
    return lambda: ga.xarray.statistics(path, schema, block_bytes=1)


def read(tmp_path, monkeypatch, slowed):
    path, schema = stored(tmp_path)
    from geoattn.xarray.stores import chunks
    from geoattn.xarray.stores.reader import Reader

    task = chunks.LocalArray._task
    monkeypatch.setattr(chunks.LocalArray, "_task", lambda *arguments: slowed(task(*arguments)))
    return lambda: Reader(path, schema).read(slice(0, 12))


def rendered(tmp_path, monkeypatch, slowed):
    monkeypatch.setattr(render, "render", slowed(render.render))
    return lambda: render.render_rooms(ga.grids.equiangular(9, 16), 6, threads=2)


def causes(error):
    while error is not None:
        yield error
        error = error.__cause__


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("interrupts", [1, 3])
@pytest.mark.parametrize("case", [planned, summed, read, rendered])
def test_an_interrupt_waits_for_the_threads_of_a_call(tmp_path, monkeypatch, case, interrupts):
    main, at_work, begun, left = threading.main_thread(), threading.Event(), [], []

    def slowed(function):
        def call(*arguments, **options):
            if threading.current_thread() is main:
                at_work.wait(30 if case in (read, rendered) else 0)  # both take part
                return function(*arguments, **options)
            begun.append(None)
            result = function(*arguments, **options)
            if len(begun) == 2:  # the caller may be anywhere
                at_work.set()
                for _ in range(interrupts):
                    signal.pthread_kill(main.ident, signal.SIGINT)
                    time.sleep(0.1)
                time.sleep(0.2)
            left.append(None)
            return result

        return call

    threads_before = torch.get_num_threads()
    torch.set_num_threads(2)
    # in jobs of a shell's background interrupts are ignored
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        call = case(tmp_path, monkeypatch, slowed)
        # numba's boxing wraps an interrupt that comes in its own callbacks: a SystemError caused by it
        with pytest.raises((KeyboardInterrupt, SystemError)) as interrupt:  # held, as a session's last one is
            call()
        assert any(isinstance(error, KeyboardInterrupt) for error in causes(interrupt.value))
        assert len(begun) == len(left) >= 2
        working = [thread for thread in threading.enumerate() if thread.name.startswith("geoattn-")]
        assert not working, interrupt
    finally:
        signal.signal(signal.SIGINT, handler)
        torch.set_num_threads(threads_before)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("interrupts", [1, 3])
def test_an_interrupt_waits_for_the_threads_that_write(interrupts):
    working, left = threading.Event(), threading.Event()

    def task():
        if threading.current_thread() is threading.main_thread():
            working.wait(30)
        else:
            working.set()
            time.sleep(1.0)
            left.set()

    timers = [
        threading.Timer(0.2 * n, os.kill, (os.getpid(), signal.SIGINT)) for n in range(1, interrupts + 1)
    ]
    # in jobs of a shell's background interrupts are ignored
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for timer in timers:
            timer.start()
        with pytest.raises(KeyboardInterrupt):
            _threads.run(task, 2)
        assert left.is_set()
    finally:
        signal.signal(signal.SIGINT, handler)
