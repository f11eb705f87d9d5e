"""The one room for files: written whole or not at all, checked when read, claimed, locked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import socket
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: a temporary file of another machine is taken for a leftover after so many seconds
ABANDONED = 24 * 3600.0


def cache_folder(name: str) -> Path:
    """The folder ``name`` inside geoattn's cache; it need not exist yet.

    The cache lies where the environment variable ``GEOATTN_CACHE`` says, else where the platform
    keeps caches: ``$XDG_CACHE_HOME/geoattn`` or ``~/.cache/geoattn``, ``~/Library/Caches/geoattn``
    on macOS, ``%LOCALAPPDATA%\\geoattn`` on Windows. Deleting it is always safe.
    """
    chosen = os.environ.get("GEOATTN_CACHE")
    if chosen:
        return Path(chosen).expanduser() / name
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "geoattn" / name


# Writing -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what is written there takes its place when the block ends.

    It may be a file or a folder, and replaces either. If the block raises, nothing at ``path`` changes
    and what was written is removed. The name is this process's and this call's own, so that several may
    write the same file: the last one stays. Leftovers of processes that were killed are removed.

    Parameters
    ----------
    path
        A link is followed: what it points to is replaced. The folder is made.
    durable
        Whether the content is on the disk itself when the block has ended, so that it outlives a power
        cut; the name changes after the content.
    """
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(place)
    mark = f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    partial, replaced = (place.with_name(f"{place.name}.{mark}.{word}") for word in ("partial", "replaced"))
    try:
        yield partial
        if durable:
            sync(partial)
        if place.is_dir():
            os.replace(place, replaced)  # a folder gives way only to a name that is free
            try:
                os.replace(partial, place)
            except BaseException:
                os.replace(replaced, place)
                raise
        else:
            os.replace(partial, place)
        if durable:
            _sync_one(place.parent)
    finally:
        _remove(partial)
        _remove(replaced)


def write_bytes(content: bytes, path: str | os.PathLike[str], *, durable: bool = False) -> None:
    """Write the file whole or not at all."""
    with whole(path, durable=durable) as partial:
        partial.write_bytes(content)


def write_text(content: str, path: str | os.PathLike[str], *, durable: bool = False) -> None:
    """Write the file whole or not at all, in UTF-8."""
    write_bytes(content.encode(), path, durable=durable)


def write_json(
    content: Any, path: str | os.PathLike[str], *, durable: bool = False, exact: bool = False
) -> None:
    """Write JSON whole or not at all.

    JSON has no infinities and no NaN: they become null, or with ``exact`` the words that ``float`` reads.
    """
    text = json.dumps(_finite(content, exact), indent=2, allow_nan=False)
    write_text(text + "\n", path, durable=durable)


def _finite(value: Any, exact: bool) -> Any:
    """The same content, with null or words for the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {name: _finite(part, exact) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part, exact) for part in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return repr(float(value)) if exact else None


def sync(path: Path, *, up_to: Path | None = None) -> None:
    """Have the disk itself hold a file, or a folder and all below it, and its names in those above.

    ``up_to`` is the last of the folders above; by default none.
    """
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _sync_one(Path(folder) / name)
            _sync_one(Path(folder))
    else:
        _sync_one(path)
    if up_to is not None:
        for above in path.parents:
            _sync_one(above)
            if above == up_to:
                break


def _sync_one(path: Path) -> None:
    if os.name != "posix" and path.is_dir():
        return  # Windows opens no folders, and needs no sync of them
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _host() -> str:
    return socket.gethostname().replace(".", "_")


def _remove_leftovers(place: Path) -> None:
    """Remove temporary files of ``place`` whose writers are no more; bring back what was moved away."""
    for entry in list(place.parent.iterdir()):
        if not entry.name.startswith(place.name + ".") or entry.suffix not in (".partial", ".replaced"):
            continue
        writer = entry.name[len(place.name) + 1 : -len(entry.suffix)].rpartition("-")[0]
        host, _, process = writer.rpartition("-")
        if not host or "." in host or not process.isdigit() or not _abandoned(entry, host, int(process)):
            continue
        if entry.suffix == ".replaced" and not place.exists():
            with contextlib.suppress(OSError):  # killed between the two renamings
                os.replace(entry, place)
        else:
            _remove(entry)


def _abandoned(entry: Path, host: str, process: int) -> bool:
    try:
        old = time.time() - entry.lstat().st_mtime > ABANDONED
    except OSError:
        return False
    if old or host != _host() or os.name != "posix":
        return old
    try:
        os.kill(process, 0)  # signal 0 asks only whether there is such a process
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


# Files of a cache ----------------------------------------------------------------------------------------


class Refused(Exception):
    """A file of a cache that others could have written; the message names it, and what helps."""


def write_checked(content: bytes | memoryview, path: Path, *, own: bool = True) -> None:
    """Write a file of a cache, with a checksum behind its content: what reads archives still does.

    Parameters
    ----------
    own
        Whether the content will be executed or unpickled: the file, and folders that must be made, are
        then this user's alone. Otherwise the process's umask decides.

    Raises
    ------
    OSError
        If it cannot be written, for instance since the disk is full; nothing is left.
    """
    for folder in reversed([path.parent, *path.parent.parents]):
        if not folder.exists():
            folder.mkdir(mode=0o700 if own else 0o777, exist_ok=True)
    with whole(path) as partial:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(partial, flags, 0o600 if own else 0o666), "wb") as file:
            file.write(content)
            file.write(hashlib.sha256(content).digest())


def read_checked(path: Path, *, own: bool = True) -> bytes | None:
    """The content of a file that :func:`write_checked` wrote; None if there is none, or it is damaged.

    Parameters
    ----------
    own
        Whether the content will be executed or unpickled, and must be nobody else's: the file and its
        folder belong to this user, and no one else may write to them. Systems without POSIX's owners
        and modes (Windows) cannot be asked; there the cache lies in the user's own profile, whose
        access list keeps others out, and nothing is checked.

    Raises
    ------
    Refused
        If ``own`` and others could have written it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        if own and os.name == "posix":
            _refuse_foreign(path.parent, os.stat(path.parent))
            _refuse_foreign(path, os.fstat(file.fileno()))  # of the open file: none can take its place now
        try:
            stored = file.read()
        except OSError:
            return None
    content, digest = stored[:-32], stored[-32:]
    return content if hashlib.sha256(content).digest() == digest else None


def _refuse_foreign(path: Path, state: os.stat_result) -> None:
    if state.st_uid != os.geteuid():
        raise Refused(
            f"{path} belongs to another user (number {state.st_uid}), and nothing from it is run; the "
            "environment variable GEOATTN_CACHE names a folder of your own"
        )
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Refused(
            f"{path} can be written by others (mode {stat.S_IMODE(state.st_mode):o}), and nothing from it "
            f"is run; chmod go-w {path} keeps them out"
        )


# Settings and folders ------------------------------------------------------------------------------------


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """All entries in which settings differ, as "name is … there, … here"; nested names are joined by dots.

    Empty if nothing differs.
    """
    old, new = _flat(there), _flat(here)
    parts = []
    for name in old | new:
        if name not in old:
            parts.append(f"{name} is missing there, {new[name]!r} here")
        elif name not in new:
            parts.append(f"{name} is {old[name]!r} there, missing here")
        elif old[name] != new[name]:
            parts.append(f"{name} is {old[name]!r} there, {new[name]!r} here")
    return "; ".join(parts)


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        return {prefix: content} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def claim(
    folder: Path, settings: dict[str, Any], what: str = "a run", remedy: str = "Give another folder"
) -> None:
    """Bind a folder to settings (JSON types), so that nothing continues another's results.

    Raises
    ------
    ValueError
        If ``config.json`` in the folder has other settings, which are named, or cannot be read.
    """
    path = folder / "config.json"
    wanted = json.loads(json.dumps(_finite(settings, exact=True)))
    if path.exists():
        try:
            found = _finite(json.loads(path.read_text()), exact=True)
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}). {remedy}") from error
        if found != wanted:
            known = isinstance(found, dict)
            other = differences(found, wanted) if known else f"{found!r} is no configuration"
            raise ValueError(f"{folder} holds {what} with other settings: {other}. {remedy}")
        return
    write_json(wanted, path, exact=True)


_locked: set[int] = set()


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock between processes while the block runs; it lies in ``<path>.lock`` beside ``path``.

    The system releases it when the process ends, in whatever way. Forked children do not hold it. Two
    calls exclude each other within one process too. File systems that know no locks are not waited for.

    Raises
    ------
    BlockingIOError
        If another holds it, and ``wait`` is False.
    """
    place = path.with_name(path.name + ".lock")
    place.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(handle, wait)
        except BlockingIOError:
            os.close(handle)
            raise BlockingIOError(
                f"another process is working on {path}: wait until it has ended, or give another place"
            ) from None
        except BaseException:
            os.close(handle)
            raise
        try:  # whoever held it before may have removed the file that was opened here
            if os.path.samestat(os.fstat(handle), os.stat(place)):
                break
        except OSError:
            pass
        os.close(handle)
    _locked.add(handle)
    try:
        yield
    finally:
        if handle in _locked:  # a forked child has closed it
            _locked.remove(handle)
            with contextlib.suppress(OSError):  # Windows removes no open file: it stays, empty
                place.unlink()
            os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _take(handle: int, wait: bool) -> None:
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
                return
            except OSError as error:
                if not wait:
                    raise BlockingIOError from error
                time.sleep(0.05)

else:
    import errno
    import fcntl

    def _take(handle: int, wait: bool) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise

    def _forget() -> None:
        """Close a forked child's copies: else it would hold its parent's locks after the parent's end."""
        for handle in _locked:
            os.close(handle)
        _locked.clear()

    os.register_at_fork(after_in_child=_forget)
