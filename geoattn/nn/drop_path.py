"""Stochastic depth: whole branches of a block are left out at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from geoattn.nn.checks import check_rate

if TYPE_CHECKING:
    from geoattn.parallel.shards import Shards


class DropPath(nn.Module):
    """Leaves samples out of a branch at random while training (Huang et al., 1603.09382).

    Of ``[B, …]`` each sample becomes 0 with probability ``rate``, and others grow by 1 / (1 − rate), so that
    the mean stays. In evaluation nothing changes.

    Parameters
    ----------
    rate
        Probability, in [0, 1).

    Examples
    --------
    >>> ga.nn.DropPath(0.5).eval()(torch.ones(2, 3)).sum()
    tensor(6.)
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        check_rate("drop_path", rate)
        if rate == 1.0:
            raise ValueError(f"drop_path must be below 1, got {rate!r}: nothing would be left of a branch")
        self.rate = rate
        self._shards: Shards | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = x.new_empty(len(x), *(1 for _ in x.shape[1:])).bernoulli_(1 - self.rate)
        if self._shards is not None:  # a sample is left out on all processes, or on none
            kept = self._shards.sum(kept * (self._shards.rank == 0))
        return x * kept / (1 - self.rate)

    def divide(self, shards: Shards) -> None:
        """Draw alike on the processes that share a sample."""
        self._shards = shards

    def extra_repr(self) -> str:
        return f"{self.rate:g}"
