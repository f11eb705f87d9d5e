"""Runs: what is written, what repeats after a kill, what is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

lightning = pytest.importorskip("lightning", reason="training stands on Lightning")
pytest.importorskip("matplotlib", reason="runs draw their learning curves")

import geoattn as ga  # noqa: E402
from geoattn import models  # noqa: E402
from geoattn.training import Data, FitConfig, Rounds, fit, one_cycle  # noqa: E402

GRID = ga.grids.gaussian(4, 8)
CONFIG = FitConfig(steps=12, validate_every=4, batch_size=3, seed=5, accelerator="cpu")


class Fields(torch.utils.data.Dataset):
    """Random fields and their neighbors to the west; the process may be killed at one of them."""

    def __init__(self, count, kill_at=None):
        generator = torch.Generator().manual_seed(count)
        self.fields, self.reads, self.kill_at = torch.randn(count, 1, 4, 8, generator=generator), 0, kill_at

    def __len__(self):
        return len(self.fields)

    def name_of(self, index):
        return f"field {index}"

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.fields[index], self.fields[index].roll(1, -1)


class Shifter(lightning.LightningModule):
    def __init__(self, radius=60.0):
        super().__init__()
        hood = ga.geodesic(GRID, radius=radius)
        config = models.TransformerConfig(GRID, hood, 1, 1, dim=8, depth=1, num_heads=2, dropout=0.2)
        self.network = config.build()

    def loss(self, batch):
        return (self.network(batch[0]) - batch[1]).square().mean()

    def training_step(self, batch, _):
        return self.loss(batch)

    def validation_step(self, batch, _):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return one_cycle(self, 1e-2, 0.01, 12)


def run(folder, train=None, config=CONFIG, radius=60.0, **options):
    lightning.seed_everything(config.seed, verbose=False)
    module = Shifter(radius)
    return module, fit(module, Data(train or Fields(10), Fields(4), config), folder, config, **options)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    return folder, *run(folder, settings={"task": "shift"})


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds_per_step"} for row in rows]


def test_a_run_leaves_configuration_metrics_checkpoint_and_picture(uninterrupted):
    folder, _, rows = uninterrupted
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    with open(folder / "metrics.csv") as file:
        table = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert table == rows == json.loads((folder / "metrics.json").read_text())["rounds"]
    settings = json.loads((folder / "config.json").read_text())
    assert settings["task"] == "shift"
    assert settings["fit"]["seed"] == 5
    assert "60°" in settings["models"][0]["summary"]
    assert (folder / "learning.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir(folder / "checkpoints")) == ["last.ckpt"]


def test_a_run_killed_in_the_middle_of_a_round_ends_with_the_same_bits(uninterrupted, tmp_path):
    program = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_training import Fields, run
        run(Path({str(tmp_path)!r}), Fields(10, kill_at=20), settings={{"task": "shift"}})
    """
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(json.loads((tmp_path / "metrics.json").read_text())["rounds"]) == 1  # of three
    module, rows = run(tmp_path, settings={"task": "shift"})
    _, whole, whole_rows = uninterrupted
    for name, parameter in whole.state_dict().items():
        assert torch.equal(module.state_dict()[name], parameter), name
    assert without_times(rows) == without_times(whole_rows)


def test_a_finished_run_is_loaded(uninterrupted):
    folder, whole, rows = uninterrupted
    before = (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    module, again = run(folder, settings={"task": "shift"})
    assert again == rows
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), whole.parameters(), strict=True))
    assert (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_another_geometry_or_setting_in_the_same_folder_is_refused(uninterrupted):
    folder = uninterrupted[0]
    with pytest.raises(ValueError, match=r"other settings: models is .*60°.* there, .*70°.* here"):
        run(folder, radius=70.0, settings={"task": "shift"})
    other = FitConfig(steps=12, validate_every=4, batch_size=3, seed=6, accelerator="cpu")
    with pytest.raises(ValueError, match=r"fit\.seed is 5 there, 6 here"):
        run(folder, config=other, settings={"task": "shift"})


def test_early_stopping_keeps_the_best_model(tmp_path):
    config = FitConfig(12, 2, 3, patience=1, seed=5, accelerator="cpu")

    class Worse(Shifter):
        def validation_step(self, batch, _):
            self.log("val_loss", float(self.global_step))

    module = Worse()
    rows = fit(module, Data(Fields(10), Fields(4), config), tmp_path, config)
    assert [row["step"] for row in rows] == [2, 4]
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 2
    assert all(torch.equal(best["state_dict"][k], v) for k, v in module.state_dict().items())


def test_every_sample_is_seen_once_an_epoch_in_an_order_of_seed_and_round_alone():
    whole, rounds = Rounds(10, 3, 7, seed=1), []
    for number in range(3):
        whole.set_epoch(number)
        rounds.append(list(whole))
    epochs = torch.tensor(rounds).reshape(7, 9)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 9
    assert not torch.equal(epochs[0], epochs[1])
    whole.set_epoch(1)
    assert list(whole) == rounds[1]
    assert list(Rounds(10, 3, 7, seed=2)) != rounds[0]


def test_processes_share_each_batch():
    whole = torch.tensor(list(Rounds(12, 4, 5, seed=0))).reshape(5, 4)
    parts = [torch.tensor(list(Rounds(12, 4, 5, 0, 2, rank))).reshape(5, 2) for rank in (0, 1)]
    assert torch.equal(torch.stack(parts, -1).reshape(5, 4), whole)


# bad input ------------------------------------------------------------------------------------


def test_a_sample_with_nan_stops_the_run_with_its_name(tmp_path):
    spoiled = Fields(10)
    spoiled.fields[7, 0, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="1 values of field 7 are NaN or infinite"):
        run(tmp_path, spoiled)


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_are_spoiled(tmp_path):
    module = Shifter()
    torch.nn.init.constant_(module.network.norm.weight, 1e38)
    torch.nn.init.constant_(module.network.decoder.projection.weight, 1e38)
    with pytest.raises(FloatingPointError, match=r"the training loss became (inf|nan) at step 0"):
        fit(module, Data(Fields(10), Fields(4), CONFIG), tmp_path, CONFIG)
    assert all(torch.isfinite(p).all() for p in module.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 10, "validate_every": 4}, "steps=10 is no multiple of validate_every=4: take 8 steps"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 3, "devices": 2}, "batch_size=3 does not divide among devices=2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FitConfig(**options)


def test_too_few_samples_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="2 samples fill no batch of 3"):
        Rounds(2, 3, 1, seed=0)
