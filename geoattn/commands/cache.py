"""``geoattn cache``: what is kept on disk between programs, and how to be rid of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from geoattn.commands import tables

#: part → what lies there, and how its files end
PARTS = {
    "plans": ("neighborhoods laid out for a machine", (".plan", ".npz")),
    "cpu": ("compiled kernels for the CPU", (".nbc",)),
    "kernels": ("compiled kernels for CUDA devices", (".cubin",)),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List what geoattn keeps on disk between programs, and its size, or delete it. All of it is made "
        "anew when it is needed. Only files that geoattn wrote are deleted, and only in its own folders; "
        "the environment variable GEOATTN_CACHE says where these are."
    )
    parser.add_argument(
        "--clear",
        nargs="*",
        choices=tuple(PARTS),
        metavar="PART",
        help=f"delete these parts, of {', '.join(PARTS)} (all of them, if none is named)",
    )


def run(options: argparse.Namespace) -> int:
    if options.clear is not None:
        for name in options.clear or PARTS:
            count, size = clear(name)
            print(f"deleted of {name}: {count:,} files, {shown(size)}")
        print()
    print(listing())
    return 0


def listing() -> str:
    """A table of the parts."""
    rows = []
    for name, (words, _) in PARTS.items():
        found = list(files(name))
        size = sum(path.lstat().st_size for path in found)
        rows.append((name, len(found), shown(size), words, str(place(name))))
    return tables.table(("part", "files", "size", "what", "folder"), rows)


def place(name: str) -> Path:
    """The folder of a part."""
    from geoattn._files import cache_folder

    return cache_folder(name)


def files(name: str) -> Iterator[Path]:
    """The files of a part that geoattn wrote. Links are not followed, and the folder must not be one."""
    folder, (_, endings) = place(name), PARTS[name]
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():  # one for each state of the sources
            yield from (inner for inner in sorted(path.iterdir()) if _ours(inner, endings))
        elif _ours(path, endings):
            yield path


def _ours(path: Path, endings: tuple[str, ...]) -> bool:
    return path.suffix in endings and path.is_file() and not path.is_symlink()


def clear(name: str) -> tuple[int, int]:
    """Delete the files of a part, and folders in it that are empty then; returns their number and size.

    Raises
    ------
    ValueError
        If the part's folder is a link to another.
    """
    folder = place(name)
    if folder.is_symlink():
        raise ValueError(
            f"{folder} is a link to {folder.resolve()}, and only what is in geoattn's own folder is deleted"
        )
    count = size = 0
    for path in list(files(name)):
        size += path.lstat().st_size
        path.unlink(missing_ok=True)  # another program may have been quicker
        count += 1
    for inner in folder.iterdir() if folder.is_dir() else ():
        if inner.is_dir() and not inner.is_symlink() and not any(inner.iterdir()):
            inner.rmdir()
    return count, size


def shown(size: int) -> str:
    """Bytes, as people say them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.3g} GB"
