"""What people expect of a run: optimisers, schedules and loggers by name, averages, parts of a step."""

import copy
import csv
import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

lightning = pytest.importorskip("lightning", reason="training stands on Lightning")
pytest.importorskip("matplotlib", reason="runs draw their learning curves")

from test_training import CONFIG, GRID, Fields, Shifter, kill, run, same_bits, without_times  # noqa: E402

import geoattn as ga  # noqa: E402
from geoattn import models  # noqa: E402
from geoattn.training import (  # noqa: E402
    Data,
    FitConfig,
    fit,
    optimizers,
    processes,
)
from geoattn.training.loggers import loggers  # noqa: E402
from geoattn.training.optimisers import find_optimizer, find_schedule  # noqa: E402
from geoattn.training.processes import trainer_options  # noqa: E402


def changed(**settings):
    return dataclasses.replace(CONFIG, **settings)


def timm(part):
    sys.path.insert(0, str(Path(__file__).parent / "real_models"))
    try:
        from originals import of_timm
    finally:
        sys.path.pop(0)
    return of_timm(part)


# names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("adamw", torch.optim.AdamW),
        ("torch:SGD", torch.optim.SGD),
        ("NAdam", torch.optim.NAdam),
    ],
)
def test_optimisers_of_torch_by_name(name, found):
    assert find_optimizer(name) is found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("onecycle", "OneCycleLR"),
        ("one_cycle", "OneCycleLR"),
        ("cosine", "CosineAnnealingLR"),
        ("CosineAnnealingLR", "CosineAnnealingLR"),
        ("polynomial", "PolynomialLR"),
    ],
)
def test_schedules_of_torch_by_name(name, found):
    assert find_schedule(name) is getattr(torch.optim.lr_scheduler, found)


def test_optimisers_and_schedules_of_timm_by_name():
    optim, scheduler = timm("optim"), timm("scheduler")
    assert find_optimizer("lamb") is find_optimizer("timm:lamb") is optim.get_optimizer_class("lamb")
    assert find_optimizer("timm:adamw") is optim.get_optimizer_class("adamw")
    assert find_schedule("tanh") is scheduler.TanhLRScheduler


def test_unknown_names_are_refused_with_those_that_are_known(refused_by):
    timm("optim"), timm("scheduler")
    told = r"optimizer 'adamx' is unknown, did you mean 'adamax': torch has adadelta, .*; timm has .*lamb"
    with pytest.raises(ValueError, match=told):
        FitConfig(optimizer="adamx")
    with pytest.raises(ValueError, match=r"schedule 'torch:tanh' is unknown: torch has .*onecycle"):
        FitConfig(schedule="torch:tanh")
    for name in ("reduceonplateau", "plateau"):  # it follows a metric, which no checkpoint has
        with pytest.raises(ValueError, match="is unknown"):
            FitConfig(schedule=name)
    with refused_by("training/optimisers.py", "and names are those of") as said:
        FitConfig(optimizer="apex:lamb")
    said.says("optimizer='torch:…'")
    assert FitConfig(optimizer="torch:adam").optimizer == "torch:adam"


def test_without_timm_its_names_are_told_to_be_missing(monkeypatch, refused_by):
    timm("optim")
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    config = FitConfig(optimizer="lamb")  # a run is scored without it
    with refused_by("training/optimisers.py", "is looked up in timm") as said:
        optimizers(torch.nn.Linear(2, 2), config)
    said.says('pip install "geoattn[timm]"')
    assert "torch has adadelta" in said.message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"optimizer": "sgd", "optimizer_options": {"beta": 1}},
            "'sgd' has no option beta; it has lr, momen",
        ),
        ({"schedule": "cosine", "schedule_options": {"min": 1}}, "'cosine' has no option min; it has T_max"),
        ({"schedule": "step"}, r"'step' needs step_size: schedule_options=\{'step_size': …\}"),
        ({"optimizer": "rprop"}, r"'rprop' knows no weight decay: set weight_decay=0\.0"),
    ],
)
def test_options_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        optimizers(torch.nn.Linear(2, 2), FitConfig(**settings))


def test_the_remedies_of_options_are_right(refused_by):
    module = torch.nn.Linear(2, 2)
    with refused_by("training/optimisers.py", "knows no weight decay") as said:
        optimizers(module, FitConfig(optimizer="rprop"))
    optimizers(module, FitConfig(optimizer="rprop", weight_decay=said.run("weight_decay=")))
    with refused_by("training/optimisers.py", "needs {}") as said:
        optimizers(module, FitConfig(schedule="step"))
    options = said.run("schedule_options=", "3")
    optimizers(module, FitConfig(schedule="step", schedule_options=options))


def rates(config, steps):
    made = optimizers(torch.nn.Linear(2, 2), config)
    found = []
    for _ in range(steps):
        found.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        if "lr_scheduler" in made:
            made["lr_scheduler"]["scheduler"].step()
    return found


def test_a_schedule_is_as_long_as_the_run_and_comes_after_the_warmup():
    cosine = torch.tensor(rates(changed(schedule="cosine", steps=40), 41))
    expected = 1e-2 * (1 + torch.cos(torch.pi * torch.arange(41) / 40)) / 2
    torch.testing.assert_close(cosine, expected)
    risen = torch.tensor(rates(changed(schedule="cosine", steps=40, warmup=4), 41))
    torch.testing.assert_close(risen[:5], 1e-2 * torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]))
    assert risen[4:].argmax() == 0
    assert risen[40] < 1e-8
    assert rates(changed(schedule="none"), 3) == [1e-2] * 3
    assert rates(changed(schedule="none", warmup=1), 3) == [0.5e-2, 1e-2, 1e-2]
    peak = torch.tensor(rates(changed(schedule="onecycle", steps=40), 40)).argmax()
    assert peak in (3, 4)  # its own rise of a tenth


def test_a_schedule_of_timm_is_stepped_as_timm_steps_it():
    scheduler = timm("scheduler")
    config = changed(schedule="timm:cosine", steps=20, warmup=5, schedule_options={"lr_min": 1e-4})
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=1e-2)
    own = scheduler.CosineLRScheduler(
        optimizer, 15, lr_min=1e-4, warmup_t=5, warmup_prefix=True, t_in_epochs=False
    )
    expected = []
    for step in range(20):
        own.step_update(step)
        expected.append(optimizer.param_groups[0]["lr"])
    assert rates(config, 20) == pytest.approx(expected, rel=1e-12)


# weights that do not decay -----------------------------------------------------------------------


def test_coefficients_of_position_and_vectors_do_not_decay():
    plane = ga.grids.cartesian((4, 6))
    for hood, position in (
        (ga.geodesic(GRID, radius=60.0), "harmonic"),
        (ga.window(plane, 3), "offsets"),
        (ga.window(plane, 3), "continuous"),
    ):
        config = models.TransformerConfig(
            hood.query_grid, hood, 1, 1, dim=8, depth=1, num_heads=2, position=position
        )
        model = torch.nn.Sequential(config.build())
        groups = optimizers(model, CONFIG)["optimizer"].param_groups
        names = {p: name for name, p in model.named_parameters()}
        decay, spared = ({names[p] for p in group["params"]} for group in groups)
        assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
        assert any(".position." in name for name in spared)
        assert not any(".position." in name or name.endswith("bias") for name in decay)
        assert {"0.processor.0.attention.qkv.weight", "0.processor.0.mlp.0.weight"} <= decay
        assert {f"0.{name}" for name in model[0].no_weight_decay()} <= spared


def test_a_module_names_what_should_not_decay_itself():
    class Own(torch.nn.Linear):
        def no_weight_decay(self):
            return {"weight"}

    model = torch.nn.Sequential(Own(2, 2), torch.nn.Linear(2, 2))
    assert ga.nn.no_weight_decay(model) == {"0.weight", "0.bias", "1.bias"}


# a step in parts, blocks worked out again, branches left out ---------------------------------------


class Plain(Shifter):
    """Without dropout: what is drawn for a part is not what is drawn for the whole."""

    def __init__(self, settings, **model):
        super().__init__(settings=settings)
        hood = ga.geodesic(GRID, radius=60.0)
        self.network = models.TransformerConfig(
            GRID, hood, 1, 1, dim=8, depth=2, num_heads=2, **model
        ).build()
        torch.nn.init.normal_(self.network.decoder.projection.weight)

    def training_step(self, batch, _):
        self.log("train_loss", loss := self.loss(batch))
        return loss


def plain(folder, config, callbacks=None, **model):
    lightning.seed_everything(config.seed, verbose=False)
    module = Plain(config, **model)
    return module, fit(module, Data(Fields(12), Fields(4), config), folder, config, callbacks=callbacks)


def test_two_parts_of_two_make_the_step_of_four(tmp_path):
    descent = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 4}  # Adam would magnify rounding
    whole, rows = plain(tmp_path / "whole", changed(**descent))
    parts, rows_of_parts = plain(tmp_path / "parts", changed(**descent, accumulate=2))
    smaller, _ = plain(tmp_path / "smaller", changed(**descent | {"batch_size": 2}))
    assert [row["step"] for row in rows_of_parts] == [4, 8, 12]
    for a, b in zip(rows, rows_of_parts, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    pairs = zip(whole.parameters(), smaller.parameters(), strict=True)
    assert not all(torch.allclose(a, b, atol=1e-3) for a, b in pairs)


def test_blocks_that_are_worked_out_again_give_the_same_bits(tmp_path):
    whole, _ = plain(tmp_path / "a", CONFIG, dropout=0.1, drop_path=0.2)
    again, _ = plain(tmp_path / "b", changed(grad_checkpointing=True), dropout=0.1, drop_path=0.2)
    assert all(block.grad_checkpointing for block in again.network.processor)
    assert same_bits(whole, again)


def test_blocks_keep_less_for_the_backward_pass():
    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
            model(torch.randn(1, 1, *GRID.shape)).sum()
        return sum(sizes)

    hood = ga.geodesic(GRID, radius=60.0)
    model = models.TransformerConfig(GRID, hood, 1, 1, dim=32, depth=4, num_heads=2).build()
    before = kept(model)
    model.set_grad_checkpointing()
    assert kept(model) < before / 4
    model.set_grad_checkpointing(False)
    assert kept(model) == before


def test_a_model_without_blocks_has_nothing_to_keep_less_of(refused_by):
    with refused_by("nn/block.py", "has no ga.nn.Block to keep less of") as said:
        ga.nn.set_grad_checkpointing(torch.nn.Linear(2, 2))
    said.says("torch.utils.checkpoint.checkpoint")


def test_stochastic_depth_leaves_out_whole_samples_and_keeps_the_mean():
    drop = ga.nn.DropPath(0.25)
    out = drop(torch.ones(4000, 3, 2))
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 4 / 3]))
    assert (out == out[:, :1, :1]).all()
    assert abs(out.mean() - 1) < 0.05
    assert torch.equal(drop.eval()(out), out)
    with pytest.raises(ValueError, match=r"drop_path must be below 1, got 1\.0"):
        ga.nn.DropPath(1.0)


def test_stochastic_depth_grows_with_depth():
    hood = ga.geodesic(GRID, radius=60.0)
    config = models.TransformerConfig(GRID, hood, 1, 1, dim=8, depth=3, num_heads=2, drop_path=0.4)
    assert [block.drop_path.rate for block in config.build().processor] == [0.0, 0.2, 0.4]
    hoods = tuple(ga.everything(grid) for grid in (GRID, ga.grids.gaussian(2, 4)))
    stages = {"dims": (8, 8), "depths": (2, 1), "num_heads": (1, 1), "patches": None}
    config = models.EncoderDecoderConfig(GRID, hoods, 1, 1, drop_path=0.4, **stages)
    rates = [part.rate for part in config.build().modules() if isinstance(part, ga.nn.DropPath)]
    assert rates == [0.0, 0.2, 0.4]


# averages ----------------------------------------------------------------------------------------

AVERAGED = changed(ema=0.9, schedule="cosine", schedule_options={"eta_min": 1e-4})


class Weights(lightning.Callback):
    """The weights after every step, and those that a validation sees."""

    def __init__(self):
        self.after, self.seen = [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.after.append(copy.deepcopy(dict(module.named_parameters())))

    def on_validation_epoch_end(self, trainer, module):
        self.seen.append(copy.deepcopy(dict(module.named_parameters())))


def test_the_average_is_validated_saved_and_left(tmp_path):
    weights = Weights()
    module, _ = run(tmp_path, config=AVERAGED, callbacks=[weights])
    expected = copy.deepcopy(weights.after[0])
    averages = [copy.deepcopy(expected)]
    with torch.no_grad():
        for after in weights.after[1:]:
            for name, average in expected.items():
                average.mul_(0.9).add_(0.1 * after[name])
            averages.append(copy.deepcopy(expected))
    for seen, step in zip(weights.seen, (3, 7, 11), strict=True):
        for name, value in seen.items():
            torch.testing.assert_close(value, averages[step][name])
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in module.named_parameters():
        torch.testing.assert_close(value, expected[name])
        assert torch.equal(value, saved[name])
    assert not torch.allclose(expected["network.norm.weight"], weights.after[-1]["network.norm.weight"])
    again, _ = run(tmp_path, config=AVERAGED)  # a finished run is loaded
    assert same_bits(again, module)


IN_PARTS = dataclasses.replace(AVERAGED, batch_size=4, accumulate=2)


def test_average_schedule_and_parts_survive_a_kill(tmp_path):
    whole, rows = run(tmp_path / "whole", Fields(12), IN_PARTS)
    kill(tmp_path / "run", "from test_recipes import IN_PARTS; run(folder, Fields(12, kill_at=40), IN_PARTS)")
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["lr_schedulers"][0]["last_epoch"] == last["global_step"] == 8  # of 12
    module, again = run(tmp_path / "run", Fields(12), IN_PARTS)
    assert same_bits(module, whole)
    assert without_times(again) == without_times(rows)
    # the weights alone, without average, schedule and optimiser, lead elsewhere
    restarted = Shifter(settings=IN_PARTS)
    restarted.load_state_dict(last["state_dict"])
    fit(restarted, Data(Fields(12), Fields(4), IN_PARTS), tmp_path / "restarted", IN_PARTS)
    assert not same_bits(restarted, whole)


def test_an_average_of_divided_weights_is_refused(refused_by):
    with refused_by("training/config.py", "ema averages whole weights") as said:
        FitConfig(ema=0.99, strategy="fsdp")
    assert FitConfig(ema=0.99, strategy=said.run("strategy='ddp'")).strategy == "ddp"
    assert FitConfig(ema=said.run("ema=None"), strategy="fsdp").ema is None
    with pytest.raises(ValueError, match=r"ema must be a decay between 0 and 1, such as 0\.999, got 1"):
        FitConfig(ema=1.0)


# loggers and devices -------------------------------------------------------------------------------


def test_losses_and_learning_rates_go_to_a_csv_file(tmp_path):
    plain(tmp_path, changed(logger="csv"))
    (path,) = (tmp_path / "csv").rglob("metrics.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len([row for row in rows if row["train_loss"]]) == 12
    seen = [float(row["learning_rate"]) for row in rows if row["learning_rate"]]
    assert seen == pytest.approx(rates(CONFIG, 12))
    assert len([row for row in rows if row["val_loss"]]) == 3


def test_losses_go_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="it reads its own files")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain(tmp_path, changed(logger="csv,tensorboard"))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("val_loss")] == [3, 7, 11]
    assert len(events.Scalars("train_loss")) == 12
    assert list((tmp_path / "csv").rglob("metrics.csv"))


def test_loggers_that_are_unknown_or_missing_are_refused(tmp_path, monkeypatch, refused_by):
    with refused_by("training/loggers.py", "logger {name} is unknown") as said:
        FitConfig(logger="csv,mlflow")
    assert FitConfig(logger=said.run("logger='none'")).logger == "none"
    found = importlib.util.find_spec
    monkeypatch.setattr("geoattn._extras.find_spec", lambda n: None if n == "wandb" else found(n))
    with pytest.raises(ModuleNotFoundError, match=r"logger 'wandb' needs wandb: .*geoattn\[wandb\]"):
        loggers("csv,wandb", tmp_path)


def test_devices_nodes_and_strategy_are_those_of_lightning(monkeypatch, refused_by):
    config = FitConfig(batch_size=8, devices=2, nodes=2, strategy="ddp", accelerator="cpu")
    assert trainer_options(config) == {"devices": 2, "num_nodes": 2, "strategy": "ddp"}
    monkeypatch.setattr(processes, "start", lambda config: "a mesh")
    monkeypatch.setattr(processes.dist, "get_world_size", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with refused_by("training/processes.py", "and torchrun started processes on") as said:
        trainer_options(FitConfig(batch_size=12, nodes=3))
    found = trainer_options(FitConfig(batch_size=12, nodes=said.run("nodes=1")))
    assert (found["devices"], found["num_nodes"]) == (2, 2)
    assert isinstance(found["strategy"], lightning.pytorch.strategies.DDPStrategy)
    with refused_by("training/processes.py", "divides fields among processes, and strategy") as said:
        trainer_options(FitConfig(domain=2, strategy="fsdp"))
    trainer_options(FitConfig(domain=2, strategy=said.run("strategy='auto'")))
    assert trainer_options(FitConfig(strategy="fsdp"))["strategy"] == "fsdp"
    with pytest.raises(ValueError, match="batch_size=8 does not divide among devices=2 of nodes=3"):
        FitConfig(batch_size=8, devices=2, nodes=3)
    with pytest.raises(ValueError, match="does not divide into accumulate=3 parts"):
        FitConfig(batch_size=8, accumulate=3)
    with pytest.raises(ValueError, match="warmup must be from 0 to below steps=12, got 12"):
        changed(warmup=12)


def test_processes_that_share_a_sample_leave_it_out_together():
    drop = ga.nn.DropPath(0.5)
    of_the_first = torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1)
    given = []
    drop.divide(SimpleNamespace(rank=1, sum=lambda own: given.append(own) or of_the_first))
    assert torch.equal(drop(torch.ones(3, 2)), 2 * of_the_first.expand(3, 2))
    assert not given[0].any()  # what this process drew counts nowhere


def test_every_setting_is_a_flag_and_comes_back_from_the_file(tmp_path):
    jsonargparse = pytest.importorskip("jsonargparse", reason="flags are parsed by it")
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--fit", type=FitConfig, default=FitConfig())
    words = "--fit.optimizer sgd --fit.schedule cosine --fit.warmup 3 --fit.ema 0.99 --fit.nodes 2"
    flags = [
        *words.split(),
        "--fit.accumulate",
        "2",
        "--fit.optimizer_options",
        '{"momentum": 0.9}',
        "--fit.logger",
        "csv,tensorboard",
    ]
    chosen = parser.parse_args([*flags, "--fit.grad_checkpointing", "true", "--fit.strategy", "ddp"])
    (tmp_path / "settings.yaml").write_text(parser.dump(chosen))
    for read in (chosen, parser.parse_path(str(tmp_path / "settings.yaml"))):
        made = parser.instantiate(read).fit
        assert (made.optimizer, made.schedule, made.warmup, made.ema) == ("sgd", "cosine", 3, 0.99)
        assert (made.optimizer_options, made.logger) == ({"momentum": 0.9}, "csv,tensorboard")
        assert (made.accumulate, made.nodes, made.strategy, made.grad_checkpointing) == (2, 2, "ddp", True)
