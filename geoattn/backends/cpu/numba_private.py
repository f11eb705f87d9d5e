"""Names of numba that are not public, all that the package stands on; other files take them from here.

Each was read in numba 0.61 to 0.68. If a release of numba moves one, this file and no other has to follow.
"""

from __future__ import annotations

from typing import Any

from numba.core.compiler import CompileResult as CompileResult
from numba.core.compiler_lock import global_compiler_lock as global_compiler_lock
from numba.core.serialize import dumps as dumps


def machine_tuple() -> tuple[str, str, str]:
    """Triple, processor and features that numba's code generator compiles for on this machine."""
    from numba.core.registry import cpu_target

    triple, processor, features = cpu_target.target_context.codegen().magic_tuple()
    return triple, processor, features


def address_of(dispatcher: Any, signature: tuple[Any, ...]) -> int:
    """Where the C function of a compiled signature lies, for as long as the process lives."""
    compiled = dispatcher.overloads[signature]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))
