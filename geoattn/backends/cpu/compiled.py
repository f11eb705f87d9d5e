"""Compilation: once per machine, kept on disk, and announced when it happens."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import logging
import math
import pickle
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import types

from geoattn._files import Refused, cache_folder, lock, read_checked, write_checked
from geoattn._warning import warn
from geoattn.backends.cpu.numba_private import CompileResult, address_of, dumps, global_compiler_lock

logger = logging.getLogger("geoattn")

#: seconds without compiling after which the next function that is compiled is announced again
_PAUSE = 10.0


@functools.cache
def _digest() -> str:
    """Fingerprint of all that goes into the compiled code: our sources, and what compiles them."""
    sources = [source.read_bytes() for source in sorted(Path(__file__).parent.glob("*.py"))]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    makers = (numba.__version__, llvmlite.__version__, python)
    return hashlib.sha256(b"\0".join([*sources, *(m.encode() for m in makers)])).hexdigest()


@functools.cache
def _warn_once(message: str) -> None:
    warn(message, RuntimeWarning)


class _Cache:
    """Compiled code of one function in geoattn's cache, in the way that numba's dispatchers ask for it.

    One folder for each state of the sources and of numba, so that two versions share a cache; in it one
    file for each function, signature and processor, with a checksum. A file that is damaged is compiled
    anew; one that others could have written is left alone, with a warning, since it would be executed.
    Numba's own files have no checksum, and its index is rewritten by all processes.
    """

    #: when the process last compiled something, on the monotonic clock
    compiled = -math.inf

    def __init__(self, function: Callable[..., Any]) -> None:
        code, cells = function.__code__, function.__closure__ or ()
        name = f"{Path(code.co_filename).stem}.{function.__qualname__}"
        self._name = name.replace("<", "").replace(">", "")
        bound = dumps(tuple(cell.cell_contents for cell in cells))  # type: ignore[no-untyped-call]
        self._content = (self._name, code.co_firstlineno, code.co_code, bound)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the function for this process: the others wait, and read what it compiles."""
        with contextlib.ExitStack() as held:
            # no home folder, or none that can be written: each process compiles for itself
            with contextlib.suppress(OSError, RuntimeError):
                held.enter_context(lock(Path(self.cache_path) / self._name))
            yield

    @property
    def cache_path(self) -> str:
        return str(cache_folder("cpu") / _digest()[:16])

    def enable(self) -> None:
        pass

    def disable(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def _place(self, signature: Any, codegen: Any) -> tuple[Path, bytes]:
        """The file of a signature, and what it must begin with."""
        key = hashlib.sha256(repr((self._content, str(signature), codegen.magic_tuple())).encode())
        return Path(self.cache_path) / f"{self._name}-{key.hexdigest()[:24]}.nbc", key.digest()

    def load_overload(self, signature: Any, target: Any) -> Any:
        target.refresh()
        try:
            path, key = self._place(signature, target.codegen())
            found = read_checked(path)
        except (OSError, RuntimeError):  # no home folder, an unreadable cache: writing will say so
            found = None
        except Refused as reason:
            _warn_once(f"compiled CPU kernels are not read, and compiled anew: {reason}")
            found = None
        if found is not None and found.startswith(key):
            content = pickle.loads(found[len(key) :])
            return CompileResult._rebuild(target, *content)  # type: ignore[no-untyped-call]
        # said once for all that a call compiles, and again for operands of another kind
        if time.monotonic() - _Cache.compiled > _PAUSE:
            logger.warning(
                "geoattn compiles its CPU kernels for operands of this kind, once on this machine, for some "
                "seconds; they are kept in %s",
                cache_folder("cpu"),
            )
        _Cache.compiled = time.monotonic()
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        _Cache.compiled = time.monotonic()
        if compiled.lifted or compiled.library.has_dynamic_globals:
            return  # holds addresses of this process
        try:
            path, key = self._place(signature, compiled.codegen)
            write_checked(key + dumps(compiled._reduce()), path)  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError) as error:
            _warn_once(
                f"compiled CPU kernels cannot be kept ({error}), and are compiled anew in each process; "
                "the environment variable GEOATTN_CACHE names another folder"
            )


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that other kernels call: without the interpreter lock, cached on disk."""
    return _kernel(function)


class Task:
    """A kernel that Python calls by its address: a call costs a microsecond, whatever it is given.

    Its last argument is the address of a block of numbers; those before are numbers or None, which tell what
    kind of kernel it is.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._dispatcher = _kernel(function, no_cfunc_wrapper=False)
        self._functions: dict[tuple[Any, ...], Callable[[int], None]] = {}

    def of(self, *kind: Any) -> Callable[[int], None]:
        """The kernel of a kind, as a function of the address of a block."""
        signature = (*map(numba.typeof, kind), types.int64)
        found = self._functions.get(signature)
        if found is None:
            with _uncollected():
                self._dispatcher.compile(signature)
            arguments = [_C_TYPES[kind] for kind in signature]
            function = ctypes.CFUNCTYPE(None, *arguments)(address_of(self._dispatcher, signature))
            values = (None if x is None else x.item() for x in kind)
            found = self._functions[signature] = functools.partial(function, *values)
        return found


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without searching for cycles of objects.

    A compiler makes millions that live until its end, and each search meets them all, beside all that the
    program holds: a fifth of the time, for some 40 MB that are found later.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


#: numba's types in C
_C_TYPES: dict[Any, Any] = {
    types.float32: ctypes.c_float,
    types.float64: ctypes.c_double,
    types.int64: ctypes.c_int64,
    types.none: ctypes.c_void_p,
}


def task(function: Callable[..., Any]) -> Task:
    """Compile a function that threads run; see :class:`Task`."""
    return Task(function)


def _kernel(function: Callable[..., Any], no_cfunc_wrapper: bool = True) -> Any:
    compiler: Any = numba.njit  # its types leave out the wrappers
    dispatcher = compiler(
        error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=no_cfunc_wrapper
    )(function)
    dispatcher._cache = cache = _Cache(function)
    compile_or_load = dispatcher.compile

    def compile(signature: Any) -> Any:
        # numba's lock first, since compiling one function compiles those that it calls
        with global_compiler_lock, cache.alone():
            return compile_or_load(signature)

    dispatcher.compile = compile
    return dispatcher
