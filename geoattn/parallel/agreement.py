"""All processes of a group say what they are about to do, before any waits for another that does not come."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def agreed(
    group: dist.ProcessGroup, what: str, said: Any, answer: Any, failure: Exception | None
) -> list[Any]:
    """The answers of all processes, once all said the same.

    Parameters
    ----------
    group
        Who has to agree.
    what
        What they speak of, in an error.
    said
        Printable, and equal on all processes.
    answer
        What the others get of this one.
    failure
        What went wrong here; it is raised here, and told to the others.

    Raises
    ------
    RuntimeError
        On each process, if one of the others failed, or said something else.
    """
    n, rank = group.size(), group.rank()
    told: list[Any] = [None] * n
    mine = (str(said), None if failure else answer, failure and f"{type(failure).__name__}: {failure}")
    dist.all_gather_object(told, mine, group=group)
    if failure is not None:
        raise failure
    for other, (_, _, wrong) in enumerate(told):
        if wrong is not None:
            raise RuntimeError(f"process {other} of {n} could not go on with {what}: {wrong}")
    for other, (words, _, _) in enumerate(told):
        if words != mine[0]:
            raise RuntimeError(
                f"the {n} processes disagree about {what}: process {other} has {words}, process {rank} has "
                f"{mine[0]}; all must make the same call"
            )
    return [given for _, given, _ in told]
