"""Which parameters weight decay should leave alone."""

from __future__ import annotations

from torch import nn


def no_weight_decay(module: nn.Module) -> set[str]:
    """Names of the parameters of a module that weight decay should leave alone.

    These are vectors and single numbers (biases, gains, scales), and whatever the module or a part of it
    names in a method ``no_weight_decay()`` of its own, as timm's models do: of ours, the coefficients of
    position.

    Parameters
    ----------
    module
        Any module; a part's own names count from that part.

    Examples
    --------
    >>> sorted(ga.nn.no_weight_decay(torch.nn.Linear(2, 3)))
    ['bias']
    """
    named = {name for name, p in module.named_parameters(remove_duplicate=False) if p.ndim <= 1}
    return named | _own("", module) | of_parts(module)


def of_parts(module: nn.Module) -> set[str]:
    """What the parts of a module name, without the module itself."""
    parts = ((prefix, part) for prefix, part in module.named_modules() if part is not module)
    return set().union(*(_own(f"{prefix}.", part) for prefix, part in parts))


def _own(prefix: str, part: nn.Module) -> set[str]:
    listed = getattr(part, "no_weight_decay", None)
    return {f"{prefix}{name}" for name in listed()} if callable(listed) else set()
