"""Optimisers and schedules of the learning rate by name: torch's, and timm's."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from geoattn._extras import install
from geoattn.nn import no_weight_decay

if TYPE_CHECKING:
    from geoattn.training.config import FitConfig

#: where names are looked up, in this order
PACKAGES = ("torch", "timm")
#: classes of torch's that cannot be made from a name, a length and numbers, or that follow a metric, which a
#: run that goes on after a kill no longer has
_NOT_BY_NAME = (
    lr_scheduler.LambdaLR,
    lr_scheduler.MultiplicativeLR,
    lr_scheduler.SequentialLR,
    lr_scheduler.ChainedScheduler,
    lr_scheduler.ReduceLROnPlateau,
)


def optimizers(module: nn.Module, config: FitConfig) -> dict[str, Any]:
    """The optimiser and the schedule that a run's settings name.

    Weight decay leaves alone what :func:`geoattn.nn.no_weight_decay` names: vectors, and coefficients of
    position. The schedule takes a step with every step of the optimiser.

    Parameters
    ----------
    module
        Whose parameters learn.
    config
        Its ``optimizer``, ``schedule``, their options, ``learning_rate``, ``weight_decay``, ``warmup`` and
        ``steps``.

    Returns
    -------
    What ``LightningModule.configure_optimizers`` returns.

    Raises
    ------
    ValueError
        If a name or an option is unknown, one that is needed is missing, or the optimiser knows no weight
        decay and some is asked for.
    ModuleNotFoundError
        If a name is not torch's, and timm is not installed.

    Examples
    --------
    >>> config = ga.training.FitConfig(optimizer="adamw", schedule="cosine", warmup=10)
    >>> sorted(ga.training.optimizers(torch.nn.Linear(2, 2), config))
    ['lr_scheduler', 'optimizer']
    """
    optimizer = _optimizer(module, config)
    schedule = _schedule(optimizer, config)
    if schedule is None:
        return {"optimizer": optimizer}
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def find_optimizer(name: str) -> Callable[..., Optimizer]:
    """The class that a name stands for: ``"adamw"``, ``"timm:lamb"``."""
    found: Callable[..., Optimizer] = _find(
        "optimizer", name, {"torch": _torch_optimizers, "timm": _timm_optimizers}
    )
    return found


def find_schedule(name: str) -> Callable[..., Any]:
    """The class that a name stands for: ``"onecycle"``, ``"timm:tanh"``."""
    found: Callable[..., Any] = _find("schedule", name, {"torch": _torch_schedules, "timm": _timm_schedules})
    return found


def _optimizer(module: nn.Module, config: FitConfig) -> Optimizer:
    make = find_optimizer(config.optimizer)
    takes = inspect.signature(make).parameters
    options = {"lr": config.learning_rate, **config.optimizer_options}
    _check_options("optimizer", config.optimizer, takes, options)
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    groups: list[Any]
    if "weight_decay" in takes:
        spared = no_weight_decay(module)
        groups = [
            {"params": [p for name, p in named if name not in spared], "weight_decay": config.weight_decay},
            {"params": [p for name, p in named if name in spared], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
    elif config.weight_decay:
        raise ValueError(f"optimizer {config.optimizer!r} knows no weight decay: set weight_decay=0.0")
    else:
        groups = [p for _, p in named]
    return make(groups, **options)


def _schedule(optimizer: Optimizer, config: FitConfig) -> LRScheduler | None:
    rise, steps = config.warmup, config.steps - config.warmup
    if config.schedule == "none":
        return _rise(optimizer, rise) if rise else None
    make = find_schedule(config.schedule)
    takes = inspect.signature(make).parameters
    given = {
        "max_lr": config.learning_rate,
        "pct_start": 0.1,
        "cycle_momentum": bool({"momentum", "betas"} & set(optimizer.defaults)),
        "total_steps": steps + 1,  # a schedule takes a step after the last one too
        "T_max": steps,
        "total_iters": steps,
        "t_initial": steps,
        "t_in_epochs": False,
        "warmup_t": rise,
        "warmup_prefix": True,
    }
    options = {name: value for name, value in given.items() if name in takes} | config.schedule_options
    _check_options("schedule", config.schedule, takes, options)
    if "t_in_epochs" in takes:
        return OfTimm(optimizer, make, options)
    if not rise:
        return make(optimizer, **options)  # type: ignore[no-any-return]
    return lr_scheduler.SequentialLR(optimizer, [_rise(optimizer, rise), make(optimizer, **options)], [rise])


def _rise(optimizer: Optimizer, steps: int) -> LRScheduler:
    """In equal steps to the learning rate, of which the first has its share already."""
    return lr_scheduler.LinearLR(optimizer, 1 / (steps + 1), total_iters=steps)


class OfTimm(LRScheduler):
    """A schedule of timm's, stepped as torch's are. It follows from the number of steps alone."""

    def __init__(self, optimizer: Optimizer, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
        self.schedule = make(optimizer, **options)
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        self.schedule.step_update(self.last_epoch)
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "schedule"}


# names -----------------------------------------------------------------------------------------------------


#: the names that a package has, and what gives the class of one
Shelf = tuple[Iterable[str], Callable[[str], Any]]


def _find(what: str, name: str, shelves: Mapping[str, Callable[[], Shelf]]) -> Any:
    package, _, plain = name.rpartition(":")
    if package not in ("", *PACKAGES):
        raise ValueError(
            f"{what} {name!r} is of {package!r}, and names are those of {' or '.join(PACKAGES)}: {what}="
            f"'torch:…' or 'timm:…'"
        )
    plain = _plain(plain)
    seen: dict[str, list[str]] = {}
    for place in (package,) if package else PACKAGES:
        try:
            names, take = shelves[place]()
        except ModuleNotFoundError as missing:
            raise _missing(what, name, seen, missing) from missing
        if plain in names:
            return take(plain)
        seen[place] = sorted(names)
    told = "; ".join(f"{place} has {', '.join(names)}" for place, names in seen.items())
    raise ValueError(f"{what} {name!r} is unknown{_meant(plain, seen)}: {told}")


def _meant(plain: str, seen: Mapping[str, list[str]]) -> str:
    """The name that a misspelt one is close to."""
    close = get_close_matches(plain, [name for names in seen.values() for name in names], 1, 0.75)
    return f", did you mean {close[0]!r}" if close else ""


def _missing(
    what: str, name: str, seen: Mapping[str, list[str]], missing: ModuleNotFoundError
) -> ModuleNotFoundError:
    """Says that timm, or what it stands on, is not there; and before that, what a name may have meant."""
    others = "".join(f" ({place} has {', '.join(names)})" for place, names in seen.items())
    return ModuleNotFoundError(
        f"{what} {name!r} is unknown to torch{_meant(_plain(name), seen)}; it is looked up in timm{others}, "
        f"and {missing.name} is not installed: {install('timm')}",
        name=missing.name,
    )


def _plain(name: str) -> str:
    """As people write it: CosineAnnealingLR, cosine_annealing, cosine-annealing."""
    return name.lower().replace("_", "").replace("-", "").removesuffix("scheduler").removesuffix("lr")


def _torch_optimizers() -> Shelf:
    return _by_name(torch.optim, Optimizer, (Optimizer,))


def _torch_schedules() -> Shelf:
    more = {"cosine": lr_scheduler.CosineAnnealingLR}
    return _by_name(lr_scheduler, LRScheduler, (LRScheduler, *_NOT_BY_NAME), more)


def _timm_optimizers() -> Shelf:
    optim = importlib.import_module("timm.optim")
    return optim.list_optimizers(), optim.get_optimizer_class


def _timm_schedules() -> Shelf:
    scheduler = importlib.import_module("timm.scheduler")
    base = importlib.import_module("timm.scheduler.scheduler").Scheduler
    return _by_name(scheduler, base, (base, scheduler.PlateauLRScheduler))


def _by_name(
    module: Any, base: type, without: Iterable[type], more: Mapping[str, Any] | None = None
) -> Shelf:
    public = (value for name, value in vars(module).items() if not name.startswith("_"))
    classes = {value for value in public if isinstance(value, type) and issubclass(value, base)}
    found = {_plain(value.__name__): value for value in classes - set(without)} | dict(more or {})
    return found, found.__getitem__


def _check_options(
    what: str, name: str, takes: Mapping[str, inspect.Parameter], options: Mapping[str, Any]
) -> None:
    """Refuse options that the class has not, and name those that it needs."""
    kinds = inspect.Parameter
    open_ended = any(p.kind is kinds.VAR_KEYWORD for p in takes.values())
    # the first is what it works on
    own = [n for n, p in list(takes.items())[1:] if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)]
    unknown = sorted(set(options) - set(own))
    if unknown and not open_ended:
        raise ValueError(f"{what} {name!r} has no option {', '.join(unknown)}; it has {', '.join(own)}")
    needed = [n for n in own if takes[n].default is kinds.empty and n not in options]
    if needed:
        told = ", ".join(f"{n!r}: …" for n in needed)
        raise ValueError(f"{what} {name!r} needs {', '.join(needed)}: {what}_options={{{told}}}")
