"""Names of torch that are not public, or not in every release; other files take them from here.

Each was read in torch 2.8 to 2.14. If a release of torch moves one, this file and no other has to follow.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor as FakeTensor
from torch.autograd import forward_ad

_KEYS = (
    "CPU",
    "CUDA",
    "AutogradCPU",
    "AutogradCUDA",
    "ADInplaceOrView",
    "AutocastCPU",
    "AutocastCUDA",
    "BackendSelect",
)
#: dispatch keys, of tensors and of a thread, with which the dispatcher only calls the kernel of an op
_ORDINARY = functools.reduce(
    int.__or__, (torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key)).raw_repr() for key in _KEYS)
)


def goes_straight(*tensors: torch.Tensor) -> bool:
    """Whether the dispatcher would call an op's kernel on these tensors and do nothing else.

    Not so with tensors of other classes, on other devices, batched, traced or with a pending minus, nor
    where a mode or a profiler listens.
    """
    keys = torch._C._dispatch_tls_local_include_set().raw_repr()
    for x in tensors:
        if type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter:
            return False
        keys |= torch._C._dispatch_keys(x).raw_repr()
    listened = torch._C._len_torch_function_stack() or torch._C._autograd._profiler_enabled()
    return not (keys & ~_ORDINARY or listened)


def below_autograd() -> AbstractContextManager[Any]:
    """Within it, ops go to their kernels without passing autograd."""
    guard: AbstractContextManager[Any] = torch._C._AutoDispatchBelowAutograd()
    return guard


def with_autograd() -> AbstractContextManager[Any]:
    """Within it, autograd is on again, inside an op that was reached below it."""
    key = torch._C.DispatchKey.AutogradFunctionality
    guard: AbstractContextManager[Any] = torch._C._SetExcludeDispatchKeyGuard(key, False)
    return guard


def in_functorch() -> bool:
    """Whether a transform of ``torch.func`` is active."""
    return bool(torch._C._are_functorch_transforms_active())


def dual_numbers() -> bool:
    """Whether tensors may carry tangents: a level of forward-mode differentiation is open."""
    return forward_ad._current_level >= 0


def exporting() -> bool:
    """Whether a program is being exported; in torch 2.11 the public name is true under any compilation."""
    return torch.compiler._is_exporting_flag


def is_legacy_batched(x: torch.Tensor) -> bool:
    """Whether a tensor stands for several, as in ``torch.autograd.functional`` with ``vectorize=True``."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(x))


def dynamo_limits(**limits: int) -> AbstractContextManager[Any]:
    """Within it, ``torch.compile`` recompiles up to these limits."""
    patched: AbstractContextManager[Any] = torch._dynamo.config.patch(limits)
    return patched


def current_stream(index: int) -> int:
    """The driver's handle of the stream on which torch works on a CUDA device: no object around it."""
    return int(torch._C._cuda_getCurrentRawStream(index))


def flex_lse() -> dict[str, Any]:
    """By what ``flex_attention`` returns its lse too: before torch 2.9 as a tensor, since then in a tuple."""
    from torch.nn.attention import flex_attention

    if hasattr(flex_attention, "AuxRequest"):
        return {"return_aux": flex_attention.AuxRequest(lse=True)}
    return {"return_lse": True}


def all_to_all(x: torch.Tensor, received: list[int], sent: list[int], group: str) -> torch.Tensor:
    """Begin to send rows of ``x`` to each process of a group; what returns is filled by :func:`wait`."""
    found: torch.Tensor = torch.ops._c10d_functional.all_to_all_single(x, received, sent, group)
    return found


def all_reduce(x: torch.Tensor, group: str) -> torch.Tensor:
    """Begin to sum a tensor over the processes of a group; what returns is filled by :func:`wait`."""
    found: torch.Tensor = torch.ops._c10d_functional.all_reduce(x, "sum", group)
    return found


def wait(x: torch.Tensor) -> torch.Tensor:
    """The same tensor, once what fills it has ended."""
    found: torch.Tensor = torch.ops._c10d_functional.wait_tensor(x)
    return found
