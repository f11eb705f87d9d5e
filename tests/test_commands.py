"""The command line as a whole: what it lists, how it refuses, and that every option says what it does."""

import argparse
import io
import json
import subprocess
import sys
import time
from importlib import import_module

import pytest

from geoattn.__main__ import main
from geoattn.commands import running, tables
from geoattn.commands.table import COMMANDS


def parser_of(name):
    parser = argparse.ArgumentParser()
    module = import_module(f"geoattn.commands.{COMMANDS[name].module}")
    module.arguments(parser)
    return parser


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_sentence(name):
    for action in parser_of(name)._actions:
        assert action.help, action.dest
        assert len(action.help.split()) > 2 or action.dest == "help", (action.dest, action.help)
    assert COMMANDS[name].help[0].islower()
    assert not COMMANDS[name].help.endswith(".")


def test_every_setting_of_every_task_has_a_sentence():
    pytest.importorskip("jsonargparse", reason="settings come by jsonargparse")
    for module in ("lightning", "torchmetrics", "xarray", "matplotlib"):
        pytest.importorskip(module, reason="experiments stand on it")
    from geoattn.commands import experiments

    for task, place in experiments.TASKS.items():
        parser = experiments.parser_of("train", task, import_module(place))
        for action in parser._actions:
            if action.help != argparse.SUPPRESS:
                assert action.help, (task, action.dest)
                words = action.help.replace("(%(default)s)", "").split()
                assert len(words) > 1 or action.dest == "help", (task, action.dest, words)


def test_help_shows_percent_signs_as_they_are(capsys):
    pytest.importorskip("jsonargparse", reason="settings come by jsonargparse")
    for module in ("lightning", "xarray", "matplotlib"):
        pytest.importorskip(module, reason="experiments stand on it")
    with pytest.raises(SystemExit):
        main(["train", "forecast", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "training has the first 70 % of the steps" in said
    assert "%%" not in said


@pytest.mark.parametrize("action", ["train", "evaluate"])
def test_help_without_a_task_lists_the_tasks(action, capsys):
    from geoattn.commands import experiments

    assert main([action, "--help"]) == 0
    said = capsys.readouterr().out
    assert experiments.ACTIONS[action] in said
    for task in experiments.TASKS:
        assert f"  {task} " in said
        assert experiments.ABOUT[task] in said
    assert main([action]) == 2


def test_the_list_of_commands_comes_without_anything_heavy():
    program = (
        "import sys; from geoattn.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'xarray', 'lightning', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
    for name, command in COMMANDS.items():
        assert f"    {name}" in run.stdout
        assert command.help.split()[0] in run.stdout


def test_what_is_no_command_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        main(["forcast"])
    assert left.value.code == 2
    assert "invalid choice: 'forcast'" in capsys.readouterr().err


class Failing:
    """A command that fails by whatever it is given."""

    def __init__(self, error):
        self.error = error

    def arguments(self, parser):
        parser.add_argument("--gaps", help="what becomes of gaps")
        parser.add_argument("--mask", choices=("truth",), help="leave points out")
        parser.add_argument("--overwrite", action="store_true", help="replace what is there")
        parser.add_argument("--lat", metavar="NAME", help="the coordinate of latitudes")
        parser.add_argument("--data.lag", help="steps of a change")
        parser.add_argument("--masked", nargs="+", help="variables with missing values")

    def run(self, options):
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("there are gaps. To cross none: gaps='split'"), "(on this command line: --gaps split)"),
        (FileExistsError("it exists; to replace it: overwrite=True"), "(on this command line: --overwrite)"),
        (ValueError("say so: masked=['sst']"), "(on this command line: --masked sst)"),
        (ValueError("say so: masked={'sst': 'static'}"), "(on this command line: --masked sst=static)"),
        (ValueError("say which points count, mask=…"), "(on this command line: --mask truth)"),
        (ValueError("lag=0 is none"), "geoattn grids: lag=0 is none\n"),
        (ValueError("no latitude found: ga.recognise(ds, lat='…')"), "(on this command line: --lat NAME)"),
        (ValueError("lag=0 is none: take lag=2"), "(on this command line: --data.lag 2)"),
        (ValueError("select one: ds.isel(lag=0)"), "ds.isel(lag=0)\n"),
        (ValueError("ga.grids.catalogue() lists all"), "(on this command line: geoattn grids)"),
        (
            ValueError(
                "bring it there: ga.xarray.regrid(truth, forecast, missing='renormalise'), gaps='split'"
            ),
            "geoattn regrid TRUTH --like FORECAST --missing renormalise --output NEW; --gaps split)",
        ),
        (
            ValueError("regrid first, ds = ga.xarray.regrid(ds, ga.grids.equiangular(nlat, nlon))"),
            'geoattn regrid STORE --grid "equiangular(nlat, nlon)" --output NEW)',
        ),
        (
            ValueError("regrid: ga.xarray.regrid(ds['t'], schema.grid)"),
            "geoattn regrid STORE --like TRAINED_ON --output NEW)",
        ),
        (ModuleNotFoundError("No module named 'zarr'", name="zarr"), 'pip install "geoattn[xarray]"'),
        (FloatingPointError("it blew up"), "geoattn grids: it blew up\n"),
    ],
)
def test_what_is_refused_is_said_without_a_traceback(error, said, monkeypatch, capsys):
    monkeypatch.setattr(running, "import_module", lambda _: Failing(error))
    assert main(["grids"]) == 2
    words = capsys.readouterr().err
    assert words.startswith("geoattn grids: ")
    assert said in words


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(running, "import_module", lambda _: Failing(AttributeError("no such name")))
    with pytest.raises(AttributeError):
        main(["grids"])


def test_tables_have_their_numbers_to_the_right():
    shown = tables.table(("name", "count", "share"), [("a", 12345, 0.25), ("longer", 7, None)])
    assert shown.splitlines() == [
        "name     count  share",
        "------  ------  -----",
        "a       12,345   0.25",
        "longer       7",
    ]
    scores = tables.of_scores({"test": {"rmse": {"depth": [1.0, 2.0]}}, "stable": True})
    assert [line.split() for line in scores.splitlines()[2:]] == [
        ["test", "rmse", "depth", "1", "2"],
        ["stable", "yes"],
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_a_bar_shows_on_a_terminal_alone(stream, monkeypatch):
    pytest.importorskip("xarray", reason="long work is on stores")
    from geoattn.xarray.stores.progress import bar

    monkeypatch.setattr(sys, "stderr", stream)
    with bar("block") as tell:
        tell(3, 7)
        time.sleep(0.2)  # a bar is drawn ten times a second
        tell(5, 7)
    assert ("5/7" in stream.getvalue()) == stream.isatty()


def test_training_shows_its_bar_on_a_terminal_alone(monkeypatch, tmp_path):
    pytest.importorskip("lightning", reason="the bar is Lightning's")
    from geoattn.training.callbacks import Record, TrainingBar

    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        assert TrainingBar(Record(tmp_path)).is_enabled == stream.isatty()


def test_training_tells_each_round_where_there_is_no_terminal(tmp_path, capsys):
    pytest.importorskip("lightning", reason="training needs Lightning")
    small = {"data.training": 8, "data.validation": 4, "data.test": 4, "data.nlat": 16, "data.nlon": 32}
    options = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    fit = ["--fit.steps", "4", "--fit.validate_every", "2", "--fit.accelerator", "cpu"]
    main(["train", "depth", "--output", str(tmp_path / "run"), *options, *fit])
    rounds = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch ")]
    assert [line.split(",")[0] for line in rounds] == ["Epoch 0: step 2", "Epoch 1: step 4"]
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())["rounds"]
    for line, row in zip(rounds, written, strict=True):
        assert f", train_loss {row['train_loss']:.4g}, val_loss {row['val_loss']:.4g}" in line
    main(["train", "depth", "--output", str(tmp_path / "run"), *options, *fit])
    assert "run holds this run, finished after 4 steps: loaded, not trained" in capsys.readouterr().out
