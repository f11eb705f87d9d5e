"""What the launcher asks of the CUDA driver, heard by a driver that only takes notes."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import types

import cuda_stand_in
import pytest
import torch

import geoattn as ga
from geoattn import backends
from geoattn.backends import driver
from geoattn.backends.cuda import arguments, compiler, device, variants
from geoattn.backends.cuda.backend import Cuda

VARIANT = variants.forward(torch.bfloat16, 64, 64, True, 80)


@pytest.fixture
def machine(monkeypatch):
    """Prepare a machine with devices of some capabilities."""
    cuda_stand_in.forget()
    yield lambda *capabilities, **options: cuda_stand_in.install(monkeypatch, *capabilities, **options)
    cuda_stand_in.forget()


def launch(index=0, blocks=1, **fields):
    block = arguments.Forward(**fields)
    device.launch(VARIANT, blocks, ctypes.addressof(block), torch.device("cuda", index))


def on_a_thread(call):
    """What a call returns or raises on a thread that has no context, as autograd's have none."""
    results = []

    def run():
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def test_a_launch_loads_once_and_runs_on_the_current_stream(machine):
    notes = machine((8, 0))
    for _ in range(2):
        launch(blocks=77)
    names = [note.name for note in notes.notes if note.name not in ("retain", "stream", "wait")]
    assert names == ["load", "function", "attribute", "launch", "launch"]
    assert notes.called("load")[0].arguments == (b"code for 80",)
    assert notes.called("function")[0].arguments[1] == b"forward"
    assert notes.called("attribute")[0].arguments[1:] == ("most shared bytes", VARIANT.shared_bytes)
    function, *grid = notes.called("launch")[0].arguments[:9]
    assert function == "function 0"
    assert grid == [77, 1, 1, VARIANT.threads, 1, 1, VARIANT.shared_bytes, 1000]


def test_the_driver_is_given_the_address_of_the_arguments(machine):
    notes = machine((8, 0))
    structure = arguments.Forward(scale=arguments.Scale(all=0.25), batch=3)
    device.launch(VARIANT, 1, ctypes.addressof(structure), torch.device("cuda", 0))
    found = arguments.Forward.from_address(notes.structures[0])
    assert (found.scale.all, found.batch) == (0.25, 3)
    assert ctypes.addressof(structure) == notes.structures[0]


def test_a_warm_launch_asks_nothing_but_to_launch(machine):
    notes = machine((9, 0))
    launch()
    notes.notes.clear()
    launch()
    assert [note.name for note in notes.notes] == ["launch"]


def test_each_device_gets_code_and_stream_of_its_own(machine):
    notes = machine((8, 0), (9, 0))
    for index in (0, 1):
        launch(index)
    assert [note.arguments[0] for note in notes.called("load")] == [b"code for 80", b"code for 90"]
    assert [note.arguments[8] for note in notes.called("launch")] == [1000, 1001]
    assert [note.context for note in notes.called("launch")] == [100, 101]


def test_every_thread_launches_in_the_context_of_the_device_cold_and_warm(machine):
    """A thread that has called nothing of CUDA has no context, and the driver takes no call from it."""
    notes = machine((8, 0), (9, 0))
    for index in (1, 1, 0):
        assert on_a_thread(lambda index=index: launch(index)) is None
    launch()
    assert [note.context for note in notes.called("launch")] == [101, 101, 100, 100]
    assert len({note.thread for note in notes.called("launch")}) >= 2


def test_a_thread_keeps_the_context_that_it_had(machine):
    notes = machine((8, 0), (9, 0))
    notes.contexts.append(101)
    launch(0)
    launch(0)
    assert notes.contexts == [101]
    with driver.current(1):
        assert notes.contexts == [101]
    notes.failing = "launch"
    with pytest.raises(driver.DriverError):
        launch(0)
    assert notes.contexts == [101]


def test_a_thread_without_a_context_is_refused_by_the_driver(machine, monkeypatch):
    """The test of contexts above can fail."""
    machine((8, 0))
    launch()
    monkeypatch.setattr(driver, "current", lambda index: contextlib.nullcontext())
    assert "CUDA_ERROR_INVALID_CONTEXT" in str(on_a_thread(launch))


def test_kernels_are_loaded_while_a_graph_is_captured(machine):
    notes = machine((8, 0))
    with notes.capture():
        launch()
    assert notes.broken_captures == 0
    assert [note.arguments[8] for note in notes.called("launch")] == [1000]
    assert notes.called("load")[0].thread != threading.get_ident()


def test_a_driver_that_loads_nothing_during_a_capture_is_told_with_the_way_out(machine):
    notes = machine((8, 0), failing="load")
    with (
        notes.capture(),
        pytest.raises(driver.DriverError, match="make the same call once before the capture"),
    ):
        launch()
    notes.failing = None
    launch()
    with notes.capture():
        launch()
    assert notes.broken_captures == 0


#: struct of arguments → a variant that takes it
KERNELS = {
    arguments.Forward: variants.forward(torch.bfloat16, 16, 16, True, 80),
    arguments.Gradients: variants.query_gradient(torch.bfloat16, 16, 16, True, 80),
    arguments.Delta: variants.delta(torch.bfloat16),
    arguments.Table: variants.table_gradient(torch.bfloat16, 16, 16, True, 80, 16),
}


def compiled_with_layout(structure, monkeypatch, nudge=0):
    """Compile a kernel that states where each number of its arguments lies, as Python has it."""
    try:
        nvrtc = compiler.Nvrtc()
    except Exception as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")
    name, variant = structure.__name__, KERNELS[structure]
    stated = [f"static_assert(sizeof({name}) == {ctypes.sizeof(structure)});"]
    for place, offset, kind in arguments.numbers_of(structure):
        stated.append(
            f"static_assert(__builtin_offsetof({name}, {place}) == {offset + nudge}"
            f' && sizeof((({name}*)0)->{place}) == {ctypes.sizeof(kind)}, "{place}");'
        )
    texts = dict(compiler.sources())
    texts[f"{variant.kernel}.cu"] += "\n".join(stated)
    monkeypatch.setattr(compiler, "sources", lambda: texts)
    nvrtc.compile(variant, 80)


@pytest.mark.parametrize("structure", KERNELS)
def test_arguments_lie_as_the_kernels_read_them(structure, monkeypatch):
    compiled_with_layout(structure, monkeypatch)


def test_arguments_that_lie_elsewhere_are_noticed(monkeypatch):
    with pytest.raises(compiler.CompilationError, match="static assertion failed"):
        compiled_with_layout(arguments.Delta, monkeypatch, nudge=8)


@pytest.mark.parametrize("structure", KERNELS)
def test_numbers_are_written_where_they_lie(structure):
    places = list(arguments.numbers_of(structure))
    words = structure.of(*range(1, len(places) + 1))
    block = structure.from_address(words.buffer_info()[0])
    for number, (name, _, _) in enumerate(places, start=1):
        found = block
        for part in name.split("."):
            found = getattr(found, part)
        assert found == number, name


def test_no_blocks_are_no_launch_and_too_many_are_refused(machine):
    notes = machine((8, 0))
    launch(blocks=0)
    assert notes.notes == []
    with pytest.raises(ValueError, match=r"2147483648 blocks exceed .* split the batch"):
        launch(blocks=2**31)


@pytest.mark.parametrize(
    ("failing", "name"),
    [
        ("load", "cuModuleLoadData"),
        ("function", "cuModuleGetFunction"),
        ("attribute", "cuFuncSetAttribute"),
        ("launch", "cuLaunchKernel"),
    ],
)
def test_what_the_driver_refuses_is_an_error_with_variant_device_and_its_words(machine, failing, name):
    machine((8, 0), failing=failing)
    with pytest.raises(
        driver.DriverError,
        match=rf"{name} fails for forward element=BFloat16 score_dim=64.* on cuda:0: "
        r"CUDA_ERROR_NO_BINARY_FOR_GPU \(no kernel image",
    ):
        launch()


def test_of_several_devices_only_the_unfit_one_is_refused(machine):
    machine((7, 5), (9, 0))
    assert Cuda().unavailable() is None
    old, new = (types.SimpleNamespace(type="cuda", index=index) for index in (0, 1))

    def refusal(where):
        x = types.SimpleNamespace(device=where, dtype=torch.bfloat16, shape=(1, 4, 1, 64))
        return Cuda().refuses(x, x, x, None)

    assert "cuda:0" in refusal(old)
    assert "older than capability 8.0" in refusal(old)
    assert refusal(new) is None


def test_a_machine_whose_every_device_is_unfit_says_so_of_each(machine):
    machine((7, 0), (12, 9))
    reason = Cuda().unavailable()
    assert "cuda:0" in reason
    assert "older than capability 8.0" in reason
    assert "cuda:1" in reason
    assert "not known to nvrtc 13.0" in reason


def test_an_old_driver_is_named_with_the_way_out(machine):
    machine((9, 0), version=12080)
    assert "the driver knows CUDA 12.8, older than nvrtc 13.0" in Cuda().unavailable()


def test_calls_on_cpu_tensors_look_at_no_device(machine):
    notes = machine((9, 0))
    hood = ga.geodesic(ga.grids.gaussian(4, 8), radius=40.0)
    q = torch.zeros(1, 4, 8, 1, 16)
    found = ga.explain(q, q, q, hood)
    ga.attention(q, q, q, hood)
    assert found["cuda"] == "tensors are on cpu, not on a cuda device"
    assert notes.asked == []
    assert notes.notes == []
    assert ga.backends()["cuda"] == "available"  # this does look
    assert notes.asked


def test_without_cuda_the_status_tells_why():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    status = backends.status()
    assert "CUDA" in status["cuda"]
    assert status["cpu"] == status["reference"] == "available"


def test_no_variant_asks_for_more_shared_memory_than_every_device_grants():
    for architecture in (80, 86, 90, 100, 120):
        for variant in variants.every(architecture):
            assert variant.shared_bytes <= variants.MOST_SHARED_BYTES, str(variant)


def test_cuda_tensors_go_to_the_kernels_and_those_of_dense_attention_to_torch(machine):
    machine((9, 0))
    grid = ga.grids.cartesian((4, 4))
    device = types.SimpleNamespace(type="cuda", index=0)
    x = types.SimpleNamespace(device=device, dtype=torch.bfloat16, shape=(1, 16, 1, 64))
    assert backends.choose(None, x, x, x, ga.window(grid, 3)).name == "cuda"
    assert backends.choose(None, x, x, x, ga.everything(grid)).name == "sdpa"


def test_equal_variants_have_one_number_and_others_another():
    def made(dim, masked=True):
        return variants.forward(torch.bfloat16, dim, 64, masked, 80)

    assert made(40) is not made(64)
    assert made(40).number == made(64).number
    assert len({made(64).number, made(64, False).number, made(128).number}) == 3
