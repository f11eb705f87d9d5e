"""The CPU kernels' vector code for Arm: cross-compiled, and read, since nothing here can run it."""

from __future__ import annotations

import inspect
import re

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from geoattn.backends.cpu import micro, rows, split
from geoattn.backends.cpu.vector_ir import INDEX, Vectors, machine_of

TRIPLES = ["aarch64-unknown-linux-gnu", "arm64-apple-darwin"]
KERNELS = {
    name: kernel
    for module in (micro, rows, split)
    for name, kernel in vars(module).items()
    if hasattr(kernel, "emit") and not name.startswith("_")
}
#: loops of multiply-adds: at least so many of them without leaving the vector registers
PRODUCTS = {
    "scores": 24,
    "scores_of_two": 24,
    "probabilities": 24,
    "probabilities_of_two": 24,
    "score_gradients": 24,
    "score_gradients_of_two": 24,
    "gather": 8,
    "scatter": 8,
    "exponentials": 20,
}


def assembly(name, triple, element=ir.FloatType):
    """A micro-kernel without a bias for every pair, as LLVM compiles it for a machine."""
    target = llvm.Target.from_triple(triple)
    compiler = target.create_target_machine(cpu="generic", features="+neon", opt=3)
    module = ir.Module(name)
    module.triple, module.data_layout = triple, str(compiler.target_data)
    emit = KERNELS[name].emit
    given = [p for p in list(inspect.signature(emit).parameters)[1:] if p != "pairs"]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [INDEX] * len(given)), name)
    builder = ir.IRBuilder(function.append_basic_block())
    values = dict(zip(given, function.args, strict=True))
    names = list(inspect.signature(emit).parameters)[1:]
    emit(Vectors(builder, element(), machine_of(triple, "generic", "+neon")), *map(values.get, names))
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return compiler.emit_assembly(parsed)


@pytest.fixture(scope="module", autouse=True)
def _targets():
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def loops(text):
    """The instructions between each label and the last jump back to it, if no other label lies between."""
    lines = [line.split("//")[0].split(";")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith((".cfi", ".p2align"))]
    places = {line[:-1]: at for at, line in enumerate(lines) if line.endswith(":")}
    for at, line in enumerate(lines):
        jump = re.match(r"(?:b\.\w+|b|cbn?z\s+\w+,|tbn?z\s+\w+, #\w+,)\s+(\S+)$", line)
        start = places.get(jump[1]) if jump else None
        if start is not None and start < at:
            body = lines[start + 1 : at + 1]
            if not any(other.endswith(":") for other in body):
                yield body


@pytest.mark.parametrize("triple", TRIPLES)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_compiles_for_arm_without_calls(name, triple):
    text = assembly(name, triple)
    assert not re.search(r"^\s+bl\s", text, flags=re.MULTILINE), text


@pytest.mark.parametrize("triple", TRIPLES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_vectors_of_four_that_stay_in_registers(name, triple):
    bodies = [body for body in loops(assembly(name, triple)) if any("fmla" in line for line in body)]
    assert bodies
    best = max(bodies, key=lambda body: sum("fmla" in line for line in body))
    products = [line for line in best if "fmla" in line]
    assert all(".4s" in line for line in products), products
    assert len(products) >= PRODUCTS[name], best
    assert not any("[sp" in line for line in best), best


def test_double_numbers_are_vectors_of_two():
    text = assembly("scores", TRIPLES[0], ir.DoubleType)
    assert re.search(r"fmla\s+v\d+\.2d", text)


def test_what_reads_the_loops_sees_a_spill_and_a_call():
    text = "f:\nLBB0_1:\n fmla v0.4s, v1.4s, v2.4s\n str q0, [sp, #16]\n b.ne LBB0_1\n bl exp2f\n"
    (body,) = loops(text)
    assert any("[sp" in line for line in body)
    assert re.search(r"^\s+bl\s", text, flags=re.MULTILINE)
