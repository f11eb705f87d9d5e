"""What stays on a device: where it is made, and how long it lives."""

from __future__ import annotations

import gc
import threading

import cuda_stand_in
import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.backends import resident, weights
from geoattn.backends.cuda import arguments, plans
from geoattn.backends.cuda.plans import device_plan
from geoattn.backends.resident import Resident, elsewhere

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def machine(monkeypatch):
    cuda_stand_in.forget()
    machine = cuda_stand_in.install(monkeypatch, (9, 0), (9, 0))
    for module in (resident, plans, weights):
        monkeypatch.setattr(module, "uploaded", machine.allocate)
    yield machine
    ga.plans.clear()
    cuda_stand_in.forget()


def line(n, size=3):
    return ga.window(ga.grids.cartesian(n), size)


def kept(cache, hood, device=CPU, size=8):
    """The item of a neighborhood in a cache, and how often one was made for it just now."""
    made = []
    return cache.of(hood, device, lambda: lambda: made.append(1) or np.zeros(size, np.int8)), len(made)


def cache(max_bytes):
    return Resident(max_bytes, size=lambda x: x.nbytes)


def test_plans_and_log_weights_are_made_on_a_thread_and_a_stream_of_their_own(machine):
    hood = ga.geodesic(ga.grids.gaussian(8, 16), radius=30.0)
    device_plan(hood, CUDA)
    weights.log_weights(hood.key_grid, CUDA, torch.float32)
    allocated = machine.called("allocate")
    assert len(allocated) == len(arguments.Plan.ARRAYS) + 1
    assert {note.arguments for note in allocated} == {(CUDA,)}
    assert threading.get_ident() not in {note.thread for note in allocated}
    assert {note.stream for note in allocated} == {5001}  # the one that was made for it
    assert machine.stream_of(0) == 1000
    waits = [note for note in machine.called("wait") if note.arguments == (5001,)]
    assert len(waits) == 2, "each is whole before the call goes on"


def test_cold_plans_and_log_weights_leave_a_capture_alone_and_outlive_it(machine):
    hood = ga.geodesic(ga.grids.gaussian(8, 16), radius=30.0)
    with machine.capture():
        plan = device_plan(hood, CUDA)
        logs = weights.log_weights(hood.key_grid, CUDA, torch.float32)
    assert machine.broken_captures == 0
    assert machine.called("allocate")
    assert device_plan(hood, CUDA) is plan
    assert weights.log_weights(hood.key_grid, CUDA, torch.float32) is logs


def test_allocations_on_the_captured_thread_would_break_a_capture(machine):
    """The test above can fail."""
    with machine.capture(), pytest.raises(AssertionError, match="breaks the capture"):
        resident.uploaded(np.zeros(3), CUDA)
    assert machine.broken_captures == 1


def test_what_is_kept_is_no_inference_tensor():
    hood = line(70)
    with torch.inference_mode():
        plan = device_plan(hood, CPU)
        logs = weights.log_weights(ga.grids.gaussian(6, 12), CPU, torch.float32)
    assert not plan.entries.is_inference()
    assert not logs.is_inference()


def test_errors_of_the_other_thread_are_those_of_the_call():
    with pytest.raises(MemoryError, match="no room"):
        elsewhere(CPU, lambda: (_ for _ in ()).throw(MemoryError("no room")))


def test_nothing_is_made_twice_for_being_large():
    few = cache(max_bytes=10)
    hoods = [line(n) for n in (20, 21, 22)]
    assert [kept(few, hood, size=100)[1] for hood in hoods * 2] == [1, 1, 1, 0, 0, 0]


def test_items_of_neighborhoods_that_are_gone_make_room():
    few = cache(max_bytes=10)
    hood, gone = line(20), line(21)
    kept(few, gone)
    kept(few, hood)
    assert len(few) == 2
    del gone
    gc.collect()
    kept(few, line(22))
    assert len(few) == 2
    assert kept(few, hood)[1] == 0
    assert kept(few, line(21))[1] == 1


def test_an_equal_neighborhood_keeps_what_another_left():
    few = cache(max_bytes=10)
    first = line(20)
    kept(few, first)
    del first
    gc.collect()
    again = line(20)
    assert kept(few, again)[1] == 0
    kept(few, line(21))
    assert kept(few, again)[1] == 0


def test_what_a_captured_graph_may_read_stays_until_all_is_cleared(machine):
    few = cache(max_bytes=10)
    captured, other = line(20), line(21)
    item, _ = kept(few, captured, CUDA)
    with machine.capture():
        assert kept(few, captured, CUDA) == (item, 0)
    kept(few, other, CUDA)
    del captured, other
    gc.collect()
    for n in (22, 23, 24):
        kept(few, line(n), CUDA)
        gc.collect()
    assert kept(few, line(20), CUDA) == (item, 0)
    assert kept(few, line(21), CUDA)[1] == 1
    ga.plans.clear()
    assert len(few) == 0


def test_nothing_goes_while_a_stream_may_read_it(machine):
    """Memory that goes is used again at once, on a stream that knows nothing of those that read it."""
    few = cache(max_bytes=10)
    kept(few, line(20), CUDA)
    gc.collect()
    machine.notes.clear()
    with machine.capture():
        kept(few, line(21), CUDA)  # nobody can wait for a device that is captured: so nothing goes
        gc.collect()
    assert len(few) == 2
    assert (CUDA,) not in [note.arguments for note in machine.called("wait")]
    kept(few, line(22), CUDA)
    assert len(few) == 2  # of the second a graph was captured
    assert [note.arguments for note in machine.called("wait")].count((CUDA,)) == 1


def test_each_device_has_its_own():
    one, other = (device_plan(line(70), torch.device(device)) for device in ("cpu", "meta"))
    assert one is not other
