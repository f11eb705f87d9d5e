"""A whole model on many processes: one cut of all its grids, and each module on its tokens."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from geoattn._value import Value, forget
from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood
from geoattn.parallel.agreement import agreed
from geoattn.parallel.cut import Cut
from geoattn.parallel.partition import check_cut, cut_of_all, group_of
from geoattn.parallel.shards import Shards

Model = TypeVar("Model", bound=nn.Module)

#: torch's modules that treat each token by itself
_TOKENWISE: tuple[type[nn.Module], ...] = (
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.Identity),
    *(nn.Linear, nn.Embedding, nn.Dropout, nn.AlphaDropout),
    *(nn.GELU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.Mish),
    *(
        nn.Softplus,
        nn.Softsign,
        nn.Sigmoid,
        nn.LogSigmoid,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.Hardtanh,
        nn.Tanh,
    ),
)
#: and those that do, if they normalise one axis: the channels
_OF_CHANNELS = (nn.LayerNorm, nn.RMSNorm)


def parallelize(model: Model, group: dist.ProcessGroup | DeviceMesh, cut: Cut | None = None) -> Model:
    """Let a model work on the points that this process holds; it is changed in place, and returned.

    All grids of the model are cut together, see :func:`geoattn.parallel.cut`, and every module that moves
    information between tokens works on local ones, fetching what it needs of others: attention, patches,
    resampling, position. A grid's shape ``[*grid.shape]`` becomes ``[n_local]`` everywhere: fields
    ``[B, C, *grid.shape]`` are ``[B, C, n_local]``, ``model.shards.shard(fields)``, and
    ``model.shards.gather(out)`` is whole again; ``model.shards.tokens()`` says which points to read.
    Parameters and their names stay as they are: ``state_dict()`` is that of one process.

    Every process makes the call, with the same weights: load them, or seed alike. Results and gradients are
    those of one process but for rounding. A process's gradients of parameters are those of its own tokens:
    let the loss be whole, ``model.shards.sum(…)``, and average gradients over the processes, as
    ``DistributedDataParallel`` does. Wrap for that, for checkpointing or for sharding of parameters
    afterwards.

    Parameters
    ----------
    model
        One of ours, or one of your own made of ``ga.nn``.
    group
        A process group, or a mesh of one dimension, ``mesh["domain"]``.
    cut
        Who holds which point, by default that of all neighborhoods of the model.

    Raises
    ------
    TypeError
        If a module is not known to treat each token by itself, or nothing here has tokens.
    ValueError
        If the cut is for another number of processes, or the mesh has several dimensions.
    RuntimeError
        If there is no process group yet, or the processes disagree about the model.

    Examples
    --------
    >>> import torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> grid = ga.grids.gaussian(8, 16)
    >>> block = ga.nn.Block(16, 2, ga.geodesic(grid, radius=40))
    >>> ga.parallel.parallelize(block, dist.group.WORLD)(torch.randn(1, 128, 16)).shape
    torch.Size([1, 128, 16])
    >>> dist.destroy_process_group()
    """
    found, n = group_of(group)
    if found is None:
        raise TypeError(
            f"a model runs on a process group or a mesh's dimension, got {group!r}; to estimate for as many "
            "processes, geoattn.parallel.partition(hood, n) of its neighborhoods"
        )
    hoods, said, failure = [], "", None
    try:
        if not isinstance(model, nn.Module):
            raise TypeError(f"a model is a torch.nn.Module, got {model!r}")
        if hasattr(model, "shards"):
            raise ValueError("the model is on many processes already; build it anew for another group")
        hoods = neighborhoods_of(model)
        check_cut(cut, hoods, n)
        said = _words(model, hoods, cut)
    except Exception as error:  # told to the others, who would wait for this process
        failure = error
    agreed(found, "the model", said, None, failure)
    grid = getattr(model, "grid", None)
    shards = Shards(cut or cut_of_all(hoods, found), found, grid if isinstance(grid, Grid) else None)
    for module in list(model.modules()):
        divide: Any = getattr(module, "divide", None)
        if divide is not None:
            divide(shards)
    for module in model.modules():  # what was worked out of whole grids goes
        for held in vars(module).values():
            if isinstance(held, Value):
                forget(held)
    shards.let_go()
    model.shards = shards  # type: ignore[assignment]
    return model


def neighborhoods_of(model: nn.Module) -> list[Neighborhood]:
    """All ways on which information moves between the tokens of a model, each as often as it is taken.

    Raises
    ------
    TypeError
        If a module is not known to treat each token by itself, or there is no way.
    """
    hoods = []
    for name, module in model.named_modules():
        if hasattr(module, "divide"):
            hoods += list(module.neighborhoods()) if hasattr(module, "neighborhoods") else []
        elif not _tokenwise(module):
            kind = type(module).__name__
            raise TypeError(
                f"{name or 'the model'} is a {kind}, which may move information between tokens in a way "
                "that is not known here: if it treats each token by itself, but for what the modules in it "
                f"do, say so, {kind}.tokenwise = True; else build it of geoattn.nn"
            )
    if not hoods:
        raise TypeError(
            f"{type(model).__name__} has no module of geoattn.nn with tokens: there is nothing to divide"
        )
    return hoods


def _tokenwise(module: nn.Module) -> bool:
    if getattr(module, "tokenwise", False):
        return True
    for kind in _OF_CHANNELS:
        if isinstance(module, kind):
            return len(module.normalized_shape) == 1 and type(module).forward is kind.forward
    return any(isinstance(module, k) and type(module).forward is k.forward for k in _TOKENWISE)


def _words(model: nn.Module, hoods: list[Neighborhood], cut: Cut | None) -> str:
    """What must be the same on all processes."""
    parameters = (f"{name} {p.dtype} {list(p.shape)}" for name, p in model.named_parameters())
    digests = (f"{hood!r} ({hood.digest[:8]})" for hood in dict.fromkeys(hoods))
    given = "a cut of its own" if cut is None else f"the cut {cut.digest[:8]}"
    return f"{', '.join(digests)}, {given}, {', '.join(parameters)}"
