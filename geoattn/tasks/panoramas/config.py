"""Which panoramas a run learns from, and is tested on."""

from __future__ import annotations

import dataclasses

from torch.utils.data import Dataset

from geoattn.grids import Equiangular, equiangular
from geoattn.tasks.panoramas.samples import RenderedRooms, Sample
from geoattn.tasks.panoramas.stanford import Stanford2D3DS


@dataclasses.dataclass(frozen=True)
class PanoramaConfig:
    """Rendered rooms, or with ``root`` the panoramas of 2D-3D-S.

    Parameters
    ----------
    rows
        Rows of the grid, an equirectangular image of twice as many columns.
    train, val, test
        Number of rooms in each split.
    tilt
        Cameras of all splits are pitched and rolled by up to so many degrees, at random.
    supersampling
        Colours are means over so many rays squared.
    seed
        Of the rooms.
    root, fold
        Folder of 2D-3D-S, and which areas are for testing; the other parameters but ``rows`` are then
        not used.
    """

    rows: int = 24
    train: int = 600
    val: int = 40
    test: int = 120
    tilt: float = 30.0
    supersampling: int = 3
    seed: int = 0
    root: str | None = None
    fold: int = 1

    @property
    def grid(self) -> Equiangular:
        """Where the samples live: rows are pixel centres."""
        return equiangular(self.rows, 2 * self.rows, poles=False)

    def split(
        self, name: str, *, pitch: float | None = None, roll: float | None = None, count: int | None = None
    ) -> Dataset[Sample]:
        """The samples of ``"train"``, ``"val"`` or ``"test"``.

        ``pitch`` and ``roll`` hold every camera so, ``count`` is instead of the split's own number of
        rooms.
        """
        if self.root is not None:
            return Stanford2D3DS(self.root, self.fold, self.grid, name, pitch=pitch or 0.0, roll=roll or 0.0)
        number = count if count is not None else {"train": self.train, "val": self.val}.get(name, self.test)
        return RenderedRooms(
            self.grid,
            number,
            name,
            self.seed,
            tilt=self.tilt,
            pitch=pitch,
            roll=roll,
            supersampling=self.supersampling,
        )
