"""Exported programs: saved, loaded in a fresh process that has imported geoattn, and run there."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import geoattn as ga
from geoattn import models, programs

SPHERE, PLANE = ga.grids.gaussian(8, 16), ga.grids.cartesian((8, 12), periodic=(False, True))
TABLED = ga.grids.points(*np.random.default_rng(0).uniform((-80, 0), (80, 360), (200, 2)).T)

#: runs every program of a folder on its inputs, twice, and asks for a gradient
RUN = """
import sys, pathlib, {imports}
programs = sorted(pathlib.Path(sys.argv[1]).glob("*.pt2"))
assert programs
for path in programs:
    arguments, expected = torch.load(path.with_suffix(".io"))
    program = torch.export.load(path).module()
    for _ in range(2):
        torch.testing.assert_close(program(*arguments), expected, msg=lambda m: f"{{path.stem}}: {{m}}")
    first = arguments[0].requires_grad_()
    assert torch.autograd.grad(program(*arguments).sum(), first)[0].abs().sum() > 0, path.stem
print(len(programs), "programs agree")
"""


class Operator(nn.Module):
    """The operator with all of its options, in one graph."""

    def __init__(self, hood):
        super().__init__()
        self.hood = hood
        self.scale = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.bias = nn.Parameter(torch.randn(hood.key_grid.shape))

    def forward(self, q, k):
        mask = k[..., 0, 0] > -1.0
        out, lse = ga.attention(
            q, k, k, self.hood, scale=self.scale, key_bias=self.bias, key_mask=mask, return_lse=True
        )
        return torch.cat((out, lse.unsqueeze(-1)), -1)


def operator(hood):
    q, k = (torch.randn(2, *grid.shape, 2, 4) for grid in (hood.query_grid, hood.key_grid))
    return Operator(hood), (q, k)


def layer(hood, position):
    return ga.nn.Attention(16, 2, hood, position=position, qk_norm=True), (
        torch.randn(2, *hood.query_grid.shape, 16),
    )


def transformer(hood, position):
    config = models.TransformerConfig(
        hood.query_grid, hood, 3, 2, dim=16, depth=2, num_heads=2, position=position
    )
    return models.Transformer(config), (torch.randn(2, 3, *hood.query_grid.shape),)


def encoder_decoder(grid, hood, position):
    stages, at = [], grid
    for _ in range(2):
        at = ga.nn.patches(at, 2).grid
        stages.append(hood(at))
    options = {
        "dims": (8, 16),
        "depths": (1, 1),
        "num_heads": (1, 2),
        "decoder_dim": 12,
        "position": position,
    }
    config = models.EncoderDecoderConfig(grid, tuple(stages), 3, 2, patches=(2, 2), **options)
    return models.EncoderDecoder(config), (torch.randn(2, 3, *grid.shape),)


def disc(grid):
    return ga.geodesic(grid, radius=60.0)


def square(grid):
    return ga.window(grid, 3, boundary="clip")


#: name → (module, arguments)
PROGRAMS = {
    "operator on a disc": lambda: operator(disc(SPHERE)),
    "operator between grids": lambda: operator(ga.nearest(SPHERE, TABLED, k=9)),
    "operator on all": lambda: operator(ga.everything(SPHERE)),
    "operator on edges": lambda: operator(ga.from_edges(PLANE, PLANE, *ga.window(PLANE, 3).to_csr())),
    "operator on a product": lambda: operator(ga.product(ga.window(ga.grids.cartesian(3), 3), disc(SPHERE))),
    **{
        f"layer {position}": lambda position=position: layer(disc(SPHERE), position)
        for position in (None, "harmonic", "directional")
    },
    **{
        f"layer {position}": lambda position=position: layer(square(PLANE), position)
        for position in ("fourier", "rotary")
    },
    **{
        f"transformer {position}": lambda position=position: transformer(disc(SPHERE), position)
        for position in (None, "harmonic", "directional")
    },
    **{
        f"transformer {position}": lambda position=position: transformer(square(PLANE), position)
        for position in ("fourier", "rotary")
    },
    **{
        f"hierarchy {position}": lambda position=position: encoder_decoder(
            ga.grids.gaussian(16, 32), disc, position
        )
        for position in (None, "harmonic", "directional")
    },
    **{
        f"hierarchy {position}": lambda position=position: encoder_decoder(
            ga.grids.cartesian((16, 32)), square, position
        )
        for position in ("fourier", "rotary")
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All programs with their inputs and outputs."""
    folder = tmp_path_factory.mktemp("programs")
    torch.manual_seed(0)
    for name, make in PROGRAMS.items():
        module, arguments = make()
        for parameter in module.parameters():
            with torch.no_grad():  # what begins at zero takes part
                parameter.add_(0.1 * torch.randn_like(parameter))
        module.eval()
        torch.export.save(torch.export.export(module, arguments), folder / f"{name}.pt2")
        torch.save((arguments, module(*arguments).detach()), folder / f"{name}.io")
    return folder


@pytest.mark.parametrize("imports", ["geoattn, torch", "torch, geoattn"])
def test_programs_run_in_a_fresh_process(folder, imports):
    command = [sys.executable, "-W", "ignore", "-c", RUN.format(imports=imports), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{len(PROGRAMS)} programs agree" in done.stdout


def test_strict_export_carries_the_content_too():
    module, arguments = operator(disc(SPHERE))
    program = torch.export.export(module, arguments, strict=True)
    assert contents(program) == [disc(SPHERE).to_dict()]
    torch.testing.assert_close(program.module()(*arguments), module(*arguments))


def contents(program):
    """What the calls of a program carry."""
    held = {**program.constants, **program.state_dict, **dict(program.named_buffers())}
    tensors = [x for x in held.values() if isinstance(x, torch.Tensor) and x.dtype == torch.uint8]
    return [programs.decoded(x).to_dict() for x in tensors]


def test_exported_programs_hold_the_content_as_bytes_and_no_text_of_it():
    indices = ga.window(PLANE, 3).to_csr()
    module, arguments = operator(ga.from_edges(PLANE, PLANE, *indices))
    program = torch.export.export(module, arguments)
    assert contents(program) == [module.hood.to_dict()]
    (call,) = (node for node in program.graph.nodes if "geoattn" in str(node.target))
    assert max(len(x) for x in call.args if isinstance(x, str)) < 200


def test_programs_of_any_batch():
    module, (q, k) = operator(disc(SPHERE))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (q, k), dynamic_shapes=({0: batch}, {0: batch})).module()
    q, k = (torch.cat((x, x.cos(), x)) for x in (q, k))
    torch.testing.assert_close(program(q, k), module(q, k))


def test_content_is_read_once(monkeypatch):
    hood = ga.geodesic(SPHERE, radius=61.25)
    content, name = programs.encoded(hood), hood.identity
    del hood
    reads = []
    monkeypatch.setattr(programs, "decoded", lambda c, read=programs.decoded: reads.append(1) or read(c))
    q = torch.randn(1, SPHERE.size, 1, 4)
    for _ in range(3):
        torch.ops.geoattn.attention(q, q, q, None, None, None, content, name, None, 1.0, True, None)
    assert len(reads) == 1


def test_eager_and_compiled_calls_do_not_carry_it(monkeypatch):
    monkeypatch.setattr(programs, "encoded", lambda hood: pytest.fail("the content was encoded"))
    module, arguments = operator(disc(SPHERE))
    module(*arguments)
    torch.compile(module, backend="aot_eager", fullgraph=True)(*arguments)


def test_what_another_process_cannot_import_is_refused_at_export():
    cell = {"__name__": "__main__"}
    exec(
        "import dataclasses, geoattn as ga\n"
        "from geoattn.neighborhoods import Neighborhood\n"
        "@dataclasses.dataclass(frozen=True, eq=False, repr=False)\n"
        "class OfACell(Neighborhood, kind='of-a-cell'):\n"
        "    def rows(self, queries): return ga.everything(self.query_grid, self.key_grid).rows(queries)\n"
        "    def transpose(self): return OfACell(self.key_grid, self.query_grid)\n",
        cell,
    )
    module, arguments = operator(cell["OfACell"](PLANE, PLANE))
    module(*arguments)
    with pytest.raises(Exception, match=r"cannot carry .*OfACell is defined in '__main__'.*from_edges"):
        torch.export.export(module, arguments)
    edges, arguments = operator(ga.from_edges(PLANE, PLANE, *module.hood.to_csr()))
    torch.export.export(edges, arguments)


def test_a_kind_that_is_not_known_is_named_with_its_module():
    import json
    import zlib

    text = json.dumps({"neighborhood": {"kind": "spiral"}, "modules": ["geoattn.grids", "spirals.hoods"]})
    content = torch.frombuffer(bytearray(zlib.compress(text.encode())), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"'spiral'.*made where spirals\.hoods was imported"):
        programs.decoded(content)
