"""Runs: what is written, what repeats after a kill, what is refused."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import torch

lightning = pytest.importorskip("lightning", reason="training stands on Lightning")
pytest.importorskip("matplotlib", reason="runs draw their learning curves")

import geoattn as ga  # noqa: E402
from geoattn import models  # noqa: E402
from geoattn.training import Data, FitConfig, Rounds, fit, optimizers  # noqa: E402
from geoattn.training.callbacks import Record  # noqa: E402

GRID = ga.grids.gaussian(4, 8)
CONFIG = FitConfig(steps=12, validate_every=4, batch_size=3, learning_rate=1e-2, seed=5, accelerator="cpu")


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
    def __init__(self, radius=60.0, settings=CONFIG):
        super().__init__()
        self.settings = settings
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
        return optimizers(self, self.settings)


class Plain(lightning.LightningModule):
    """A model of one's own, without a configuration."""

    def __init__(self, config):
        super().__init__()
        self.config, self.layer, self.hood = (
            config,
            torch.nn.Linear(8, 8),
            ga.window(ga.grids.cartesian(8), 3),
        )

    def training_step(self, batch, _):
        return (self.layer(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch, _):
        self.log("val_loss", self.training_step(batch, _))

    def configure_optimizers(self):
        return optimizers(self, self.config)


def run(folder, train=None, config=CONFIG, radius=60.0, **options):
    lightning.seed_everything(config.seed, verbose=False)
    module = Shifter(radius, config)
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


def test_losses_that_are_no_numbers_outlive_the_file(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted[0], tmp_path / "run")
    path = tmp_path / "run" / "metrics.json"
    record = Record(path.parent)
    record.rows = [{"step": 4.0, "val_loss": float("inf")}, {"step": 8.0, "val_loss": float("nan")}]
    record.write(weights=json.loads(path.read_text())["weights"])
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    _, rows = run(path.parent, settings={"task": "shift"})
    assert [row["step"] for row in rows] == [4.0, 8.0]
    assert rows[0]["val_loss"] == float("inf")
    assert np.isnan(rows[1]["val_loss"])


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


class Steps(lightning.Callback):
    """Writes the number of each step that is done to a file, from which a killed process loses nothing."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_start(self, trainer, module, batch, index):
        with open(self.path, "a") as file:
            file.write(f"{trainer.global_step}\n")

    def done(self):
        return [int(line) for line in self.path.read_text().split()]


LONG = dataclasses.replace(CONFIG, steps=40, patience=2)


class Jumping(Shifter):
    """A validation loss that is lowest in the third round, and a little lower again in the fifth."""

    def validation_step(self, batch, _):
        losses = [5.0, 4.0, 3.0, 3.5, 2.5, 6.0, 7.0, 8.0, 9.0, 10.0]
        self.log("val_loss", losses[self.global_step // 4 - 1])

    def configure_optimizers(self):
        return optimizers(self, self.settings)


def run_jumping(folder, kill_at=None, steps=None):
    lightning.seed_everything(LONG.seed, verbose=False)
    module = Jumping(settings=LONG)
    data = Data(Fields(10, kill_at=kill_at), Fields(4), LONG)
    return module, fit(module, data, folder, LONG, callbacks=[steps] if steps else None)


def kill(folder, call):
    program = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_training import *
        folder = Path({str(folder)!r})
        {call}
    """
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


def same_bits(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_rounds_that_were_finished_when_a_run_was_killed_are_not_done_again(uninterrupted, tmp_path, capsys):
    # 12 samples a round: the 30th is read in the third
    kill(tmp_path / "run", "run(folder, Fields(10, kill_at=30))")
    steps = Steps(tmp_path / "steps")
    module, rows = run(tmp_path / "run", callbacks=[steps])
    assert steps.done() == [8, 9, 10, 11]
    told = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert told == ["Epoch 2: step 12"]
    assert same_bits(module, uninterrupted[1])
    assert without_times(rows) == without_times(uninterrupted[2])
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["last.ckpt"]


@pytest.fixture(scope="module")
def jumping(tmp_path_factory):
    module, rows = run_jumping(tmp_path_factory.mktemp("jumping") / "whole")
    assert len(rows) == 7  # the fifth is the best, and two have no lower loss
    return module, rows


@pytest.mark.parametrize("killed_in", [3, 4, 5, 6, 7])
def test_patience_survives_a_kill(jumping, tmp_path, killed_in):
    kill(tmp_path / "run", f"run_jumping(folder, kill_at={12 * killed_in - 5})")
    steps = Steps(tmp_path / "steps")
    module, rows = run_jumping(tmp_path / "run", steps=steps)
    assert steps.done() == list(range(4 * (killed_in - 1), 28))
    assert same_bits(module, jumping[0])
    assert without_times(rows) == without_times(jumping[1])


def test_a_run_killed_after_it_had_stopped_early_does_no_more_rounds(jumping, tmp_path):
    kill(
        tmp_path / "run",
        "Jumping.on_train_end = lambda self: os.kill(os.getpid(), signal.SIGKILL); run_jumping(folder)",
    )
    steps = Steps(tmp_path / "steps")
    module, rows = run_jumping(tmp_path / "run", steps=steps)
    assert not steps.path.exists()
    assert same_bits(module, jumping[0])
    assert without_times(rows) == without_times(jumping[1])


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    "without checksum": lambda content: content[:-79],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(uninterrupted, tmp_path, damage):
    kill(tmp_path / "run", "run(folder, Fields(10, kill_at=30))")
    newest = tmp_path / "run" / "checkpoints" / "last.ckpt"
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    steps = Steps(tmp_path / "steps")
    with pytest.warns(RuntimeWarning, match=r"last\.ckpt is damaged.*goes on from the one before"):
        module, rows = run(tmp_path / "run", callbacks=[steps])
    assert steps.done() == list(range(4, 12))
    assert same_bits(module, uninterrupted[1])
    assert without_times(rows) == without_times(uninterrupted[2])


def test_without_a_whole_checkpoint_a_run_begins_again_and_says_so(uninterrupted, tmp_path):
    kill(tmp_path / "run", "run(folder, Fields(10, kill_at=30))")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.warns(RuntimeWarning, match=r"before\.ckpt is damaged.*goes on from the beginning"):
        module, rows = run(tmp_path / "run")
    assert same_bits(module, uninterrupted[1])
    assert without_times(rows) == without_times(uninterrupted[2])


def test_damaged_weights_of_a_finished_run_are_refused(tmp_path):
    run(tmp_path)
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.write_bytes(DAMAGES["flipped"](path.read_bytes()))
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged"):
        run(tmp_path)


def test_checkpoints_are_still_files_of_torch(uninterrupted):
    path = uninterrupted[0] / "checkpoints" / "last.ckpt"
    assert "state_dict" in torch.load(path, weights_only=True)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


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
    other = dataclasses.replace(CONFIG, seed=6)
    with pytest.raises(ValueError, match=r"fit\.seed is 5 there, 6 here"):
        run(folder, config=other, settings={"task": "shift"})


def test_another_model_in_the_same_folder_is_refused(tmp_path):
    short = dataclasses.replace(CONFIG, steps=4)
    run(tmp_path, config=short)
    lightning.seed_everything(0, verbose=False)
    plain = Plain(short)
    fit(plain, Data(Fields(10), Fields(4), short), tmp_path / "plain", short)
    plain.layer = torch.nn.Linear(8, 8, bias=False)
    with pytest.raises(ValueError, match=r"with other settings: .*parameters.*Give another folder"):
        fit(plain, Data(Fields(10), Fields(4), short), tmp_path / "plain", short)
    plain = Plain(short)
    plain.hood = ga.window(ga.grids.cartesian(8), 5)
    with pytest.raises(ValueError, match=r"with other settings: .*neighborhoods.*5"):
        fit(plain, Data(Fields(10), Fields(4), short), tmp_path / "plain", short)


def test_a_run_without_a_validation_ends_and_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.delattr(Plain, "validation_step")
    short = dataclasses.replace(CONFIG, steps=4)
    for told in ("Epoch 0: step 4", "holds this run, finished: loaded, not trained"):
        assert fit(Plain(short), Data(Fields(10), Fields(4), short), tmp_path / "run", short) == []
        assert told in capsys.readouterr().out


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
