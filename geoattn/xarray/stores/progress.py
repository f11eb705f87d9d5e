"""A bar for long work, on terminals only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from geoattn import _extras


@contextlib.contextmanager
def bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, told of how much is done and of how much there is."""
    _extras.require("a progress bar", "tqdm")
    from tqdm import tqdm

    with tqdm(unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr, leave=False) as shown:

        def tell(done: int, whole: int) -> None:
            shown.total = whole
            shown.update(done - shown.n)

        yield tell
