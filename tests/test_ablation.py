"""The ablation: its plan, cells that are trained, scored and kept, its statistics, and its tables."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

for module, reason in {
    "lightning": "training stands on Lightning",
    "torch_harmonics": "torch-harmonics is the peer",
    "matplotlib": "the table is drawn",
    "torchmetrics": "panoramas are scored with torchmetrics",
    "xarray": "trajectories are stored with xarray",
    "zarr": "trajectories are stored as zarr",
}.items():
    pytest.importorskip(module, reason=reason)

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture
def ablation(monkeypatch, tmp_path):
    """The benchmark with toy data, and its results in a folder of the test."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ablation
    import ablation_cells

    monkeypatch.setattr(ablation, "RESULTS", tmp_path / "results")
    amounts = {"all": {"rooms": 10, "water": 4}, "few": {"rooms": 8, "water": 3}}
    monkeypatch.setattr(ablation_cells, "DATA", amounts)
    small = {"validation": 2, "test": 3}
    rooms = dataclasses.replace(ablation_cells.ROOM_DATA, nlat=16, nlon=32, supersampling=1, **small)
    water = dataclasses.replace(ablation_cells.WATER_DATA, states=4, validation=3, test=2)
    monkeypatch.setattr(ablation_cells, "ROOM_DATA", rooms)
    monkeypatch.setattr(ablation_cells, "WATER_DATA", water)
    for name in ("ROOM_MODEL", "WATER_MODEL"):
        model = dataclasses.replace(getattr(ablation_cells, name), dim=8, depth=1)
        monkeypatch.setattr(ablation_cells, name, model)
    threads = torch.get_num_threads()
    yield ablation
    torch.set_num_threads(threads)  # a cell takes one, and other tests are told apart by bits


def costs(folder, **of_rows):
    """A file of costs, in which rows take 0.1 s a step unless said otherwise."""
    from ablation_cells import TASKS
    from ablation_peers import PEERS

    from geoattn.tasks.geometry import SETTINGS

    seconds = {task: {row: of_rows.get(row, 0.1) for row in (*SETTINGS, *PEERS[task])} for task in TASKS}
    keys = {task: {row: [f"{row}: 1.0 keys"] for row in SETTINGS} for task in TASKS}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cost.json").write_text(json.dumps({"seconds_per_step": seconds, "keys": keys}))


def found_of(cell, value, sums, folder, **others):
    """What a cell would have left: all its validation and tests say ``value``."""
    from ablation_cells import VALIDATION

    tests = ["test"] if cell.task == "shallow-water" else ["upright", "any"]
    result = {
        "cell": dataclasses.asdict(cell),
        "parameters": 1000,
        "validation": {VALIDATION[cell.task][0]: [[cell.steps, value]]},
        "seconds_per_step": 0.1,
        "scores": dict.fromkeys(tests, value) | others,
        "machine": "one",
    }
    path = folder / cell.task / f"{cell.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    np.savez(path.with_suffix(".npz"), **dict.fromkeys(tests, sums))


# the plan ---------------------------------------------------------------------------------------------


def test_learning_rates_come_first_and_decide_what_comes_next(ablation):
    from ablation_cells import LENGTH, RATES, Cell
    from ablation_results import read

    folder = ablation.RESULTS
    costs(folder)
    tasks = ["shallow-water", "segmentation"]
    first = list(ablation.plan(["rows"], tasks, {}, ["all"]))
    assert len(first) == 2 * 6 * 3
    assert {cell.steps for cell in first} == {LENGTH["all"][task] // 4 for task in tasks}
    assert {cell.seed for cell in first} == {0}
    assert {(cell.task, cell.rate) for cell in first} == {(task, r) for task in tasks for r in RATES[task]}

    for cell in first:  # of the sphere the middle rate is best, of the plane the largest
        best = RATES[cell.task][{"sphere": 1, "plane": 2}.get(cell.row, 0)]
        more = 1.0 if cell.task == "segmentation" else -1.0
        if cell.row in ("sphere", "plane"):
            found_of(cell, more * (1.0 if cell.rate == best else 0.5), np.ones((2, 2, 1)), folder)
    second = list(ablation.plan(["rows"], tasks, read(folder), ["all"]))[len(first) :]
    assert len(second) == 2 * 2 * 5  # two rows of two tasks, five seeds; the others wait for their rates
    assert [cell.seed for cell in second] == sorted(cell.seed for cell in second)
    for task in tasks:
        chosen = {cell.row: cell.rate for cell in second if cell.task == task}
        assert chosen == {"sphere": RATES[task][1], "plane": RATES[task][2]}
        assert Cell(task, "sphere", LENGTH["all"][task], RATES[task][1], 4) in second


def test_of_few_data_all_is_chosen_anew_and_comes_after_what_is_asked_of_all(ablation):
    from ablation_cells import LENGTH, RATES
    from ablation_results import chosen_rate, read, rows_of, tuning
    from ablation_table import flatness

    folder = ablation.RESULTS
    costs(folder)
    for data, best in (("all", 0), ("few", 2)):
        for cell in tuning("depth", "sphere", folder, data):
            assert (cell.data, cell.steps) == (data, LENGTH[data]["depth"] // 4)
            found_of(cell, 0.1 if cell.rate == RATES["depth"][best] else 0.2, np.ones((4, 2, 1)), folder)
    found = read(folder)
    assert chosen_rate("depth", "sphere", found, folder) == RATES["depth"][0]
    assert chosen_rate("depth", "sphere", found, folder, "few") == RATES["depth"][2]
    cells = list(ablation.plan(ablation.PARTS, ["depth"], found))
    order = [cell.data for cell in cells]
    alone = [cell.scale != "coarse" or cell.size != "large" for cell in cells]
    asked = list(zip(order, alone, strict=True))
    assert asked == sorted(asked, key=lambda one: (one[1], one[0]))  # all data, few, and what all alone have
    assert ("few", True) not in asked
    whole = LENGTH["few"]["depth"]
    few = [c for c in cells if (c.data, c.row, c.steps) == ("few", "sphere", whole)]
    upright, turned = [(seed, "upright") for seed in range(5)], [(seed, "any") for seed in range(3)]
    assert [(cell.seed, cell.attitude) for cell in few] == upright + turned
    assert {cell.rate for cell in few} == {RATES["depth"][2]}
    assert not list(ablation.plan(["size"], ["depth"], found, ["few"]))

    found_of(few[0], 0.3, np.ones((4, 2, 1)), folder)
    one, other = (rows_of("depth", read(folder), folder, data=data)["sphere"] for data in ("all", "few"))
    assert one is None
    assert other["upright"]["mean"] == 0.3

    alike = dataclasses.replace(few[0], rate=RATES["depth"][0])  # but for the data a cell of all of them
    found_of(alike, 0.3, np.ones((4, 2, 1)), folder)
    ends = {d: flatness("depth", read(folder), folder, d)["rows"]["sphere"]["ends"] for d in ("all", "few")}
    assert ends["all"].keys() == {str(whole // 4)}
    assert ends["few"].keys() == {str(whole // 4), str(whole)}


def test_a_run_that_ends_in_nan_is_not_the_best(ablation):
    from ablation_results import chosen_rate, read, tuning

    folder = ablation.RESULTS
    costs(folder)
    for cell, value in zip(tuning("depth", "sphere", folder), (np.nan, 0.2, 0.3), strict=True):
        found_of(cell, value, np.ones((2, 2, 1)), folder)
    assert chosen_rate("depth", "sphere", read(folder), folder) == 8e-3


def test_peers_are_given_the_time_of_the_sphere(ablation):
    from ablation_cells import LENGTH
    from ablation_peers import THEIR_RATE

    costs(ablation.RESULTS, SFNO=0.05, LSNO=0.2)
    cells = list(ablation.plan(["peers"], ["shallow-water"], {}, ["all"]))
    whole = LENGTH["all"]["shallow-water"]
    own = {cell.row: cell for cell in cells if cell.recipe == "theirs"}
    assert own["SFNO"].steps == 4 * whole  # half the cost, and batches of half the size
    assert own["LSNO"].steps == whole
    assert {cell.rate for cell in own.values()} == {THEIR_RATE["shallow-water"]}
    assert {cell.steps for cell in cells if cell.row == "LSNO" and cell.recipe == "ours"} == {whole / 8}
    names = [cell.key for cell in cells]
    assert len(set(names)) == len(names)


# cells ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "row", "what"),
    [
        ("segmentation", "sphere", {"attitude": "any"}),
        ("depth", "S2SegFormer", {"recipe": "theirs"}),
        ("shallow-water", "plane-reach", {"size": "small"}),
        ("shallow-water", "LSNO", {}),
        ("depth", "plane", {"data": "few"}),
        ("shallow-water", "sphere", {"data": "few"}),
    ],
)
def test_a_cell_is_trained_scored_and_kept_with_its_samples(task, row, what, ablation, tmp_path):
    from ablation_cells import DATA, Cell, run, score_of
    from ablation_results import read, sums_of

    cell = Cell(task, row, 8, 1e-3, 3, **what)
    kind = "water" if task == "shallow-water" else "rooms"
    assert cell.settings(tmp_path).data.training == DATA[what.get("data", "all")][kind]
    result = run(cell, tmp_path / "work", ablation.RESULTS)
    kept = read(ablation.RESULTS)
    assert kept == {cell.key: json.loads(json.dumps(result))}
    assert Cell(**kept[cell.key]["cell"]) == cell
    sums = sums_of(kept[cell.key], ablation.RESULTS)
    assert set(sums) == ({"test"} if task == "shallow-water" else {"upright", "any"})
    for test, parts in sums.items():
        assert len(parts) == (2 if task == "shallow-water" else 3)
        assert score_of(task, parts.sum(0)) == pytest.approx(result["scores"][test], rel=1e-5)
    if task == "shallow-water":
        scores = json.loads((tmp_path / "work" / task / cell.name / "evaluation.json").read_text())
        ratios = [
            np.divide(scores["test_model"]["rmse"][c], scores["test_persistence"]["rmse"][c])
            for c in ("depth", "vorticity", "divergence")
        ]
        assert result["scores"]["test"] == pytest.approx(np.mean(ratios), rel=1e-5)


def test_rows_are_equal_but_for_what_they_see(ablation, tmp_path):
    from ablation_cells import Cell, network

    from geoattn.tasks.geometry import SETTINGS

    for task in ("shallow-water", "depth"):
        counts = {}
        for row in SETTINGS:
            model = network(cell := Cell(task, row, 8, 1e-3, 0), cell.settings(tmp_path))
            position = sum(p.numel() for name, p in model.named_parameters() if ".position." in name)
            counts[row] = sum(p.numel() for p in model.parameters()) - position
            assert position > 0
        assert len(set(counts.values())) == 1


def test_scores_of_rooms_are_those_of_the_metrics(ablation, tmp_path):
    from ablation_cells import EXPERIMENTS, Cell, of_rooms, score_of

    for task in ("segmentation", "depth"):
        rooms = Cell(task, "sphere", 8, 1e-3, 0).settings(tmp_path).data.part("test")
        experiment = EXPERIMENTS[task]
        generator = torch.Generator().manual_seed(0)
        shown = torch.stack([rooms[i][experiment.truth] for i in range(3)])
        if task == "segmentation":
            wrong = torch.rand(shown.shape, generator=generator) < 0.4
            shown = torch.where(wrong, (shown + 1) % 13, shown)
        else:
            shown = shown * (1 + 0.3 * torch.rand(shown.shape, generator=generator))
        metric = experiment.scores(rooms.grid)
        metric.update(shown, torch.stack([rooms[i][experiment.truth] for i in range(3)]))
        sums = of_rooms(task, rooms, lambda rgb, shown=shown: shown[: len(rgb)])
        assert score_of(task, sums.sum(0)) == pytest.approx(float(metric.compute()[experiment.headline]))


# a sitting --------------------------------------------------------------------------------------------


class Here:
    """Runs what a pool of processes would, at once and in this process."""

    killed = 0

    def __init__(self, workers, mp_context):
        self._processes = {1: self}

    def kill(self):
        type(self).killed += 1

    def submit(self, run, *arguments):
        from concurrent.futures import Future

        future = Future()
        try:
            future.set_result(run(*arguments))
        except RuntimeError as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_):
        pass


def test_climatology_is_the_mean_of_training_forecast_at_every_lead_time(ablation, tmp_path):
    from ablation_cells import Cell, trivial

    from geoattn.tasks.shallow_water import CHANNELS
    from geoattn.tasks.shallow_water.experiment import load, stores

    found = trivial("shallow-water", "all", tmp_path)["climatology"]["test"]
    data = Cell("shallow-water", "sphere", 8, 1e-3, 0).settings(tmp_path).data
    parts, area, ratios = stores(data), data.grid.weights.reshape(data.grid.shape), []
    for channel in CHANNELS:
        training, test = (
            load(parts[name])[channel].values.astype(np.float64) for name in ("training", "test")
        )
        runs = test.reshape(-1, data.states, *data.grid.shape)
        for lead in range(1, data.states):
            errors = (
                ((guess - runs[:, lead]) ** 2 * area).sum() for guess in (training.mean(axis=0), runs[:, 0])
            )
            ratios.append(np.sqrt(np.divide(*errors)))
    assert found == pytest.approx(np.mean(ratios), rel=1e-5)


def test_a_sitting_goes_on_where_the_last_one_stopped_and_reports_what_failed(
    ablation, monkeypatch, capsys, tmp_path
):
    costs(ablation.RESULTS)
    ran, broken = [], {"depth/plane-600-0.004-0"}

    def run(cell, work, results):
        ran.append(cell.key)
        if cell.key in broken:
            raise RuntimeError("no memory")
        found_of(cell, 0.5, np.ones((2, 2, 1)), results)
        return {"scores": {"upright": 0.5}}

    monkeypatch.setattr(ablation, "run", run)
    monkeypatch.setattr(ablation.futures, "ProcessPoolExecutor", Here)
    with pytest.raises(SystemExit, match=r"1 cells failed: depth/plane-600-0\.004-0"):
        ablation.sit(["rows"], ["depth"], 1.0, 2, tmp_path / "work", ["all"])
    assert "depth/plane-600-0.004-0 failed: RuntimeError: no memory" in capsys.readouterr().out
    assert len(ran) == len(set(ran)) == 18 + 5 * 5  # a row without its rates has no seeds
    broken.clear()
    ran.clear()
    ablation.sit(["rows"], ["depth"], 1.0, 2, tmp_path / "work", ["all"])
    assert ran[0] == "depth/plane-600-0.004-0"
    assert len(ran) == 1 + 5
    assert all(key.startswith("depth/plane-") for key in ran)
    ablation.status(["depth"])
    said = capsys.readouterr().out
    assert "rows, all data       48 cells done,    0 left" in said
    assert "rows, few data        0 cells done,   18 left" in said
    assert re.search(r"the 48 cells that are done took \d+\.\d hours", said)


def test_a_sitting_ends_in_time_and_ends_its_processes(ablation, monkeypatch, tmp_path):
    costs(ablation.RESULTS)
    monkeypatch.setattr(ablation, "run", lambda *_: pytest.fail("no time is left"))
    monkeypatch.setattr(ablation.futures, "ProcessPoolExecutor", Here)
    before = Here.killed
    ablation.sit(["rows"], ["depth"], 0.0, 2, tmp_path / "work", ["all"])
    assert Here.killed == before + 1


# statistics -------------------------------------------------------------------------------------------


def test_intervals_over_seeds_are_those_of_the_paired_t_test(ablation):
    from ablation_results import student
    from scipy import stats

    differences = np.array([0.3, -0.1, 0.2, 0.4, 0.05])
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert student(differences) == pytest.approx(list(expected))
    assert student(differences[:1]) is None


@pytest.mark.parametrize("task", ["shallow-water", "segmentation", "depth"])
def test_intervals_over_samples_are_those_of_drawing_samples_again(task, ablation):
    from ablation_cells import score_of
    from ablation_results import bootstrap

    rng = np.random.default_rng(0)
    samples, seeds, m = 12, 3, 1 if task == "depth" else 4
    theirs = rng.uniform(0.5, 1.0, (seeds, samples, 2, m))
    theirs[:, :, 1] = theirs[0, :, 1]  # what a score is divided by is the truth's
    mine = theirs.copy()
    mine[:, :, 0] *= rng.uniform(0.8, 1.0, (seeds, samples, m))
    low, high = bootstrap(task, mine, theirs)
    found = []
    for _ in range(4000):
        drawn = rng.integers(samples, size=samples)
        scores = [np.mean([score_of(task, x[s, drawn].sum(0)) for s in range(seeds)]) for x in (mine, theirs)]
        found.append(scores[0] - scores[1])
    assert [low, high] == pytest.approx(np.percentile(found, [2.5, 97.5]), abs=0.1 * (high - low))
    assert low < high < 0
    assert bootstrap(task, theirs, theirs) == [0.0, 0.0]


def test_differences_are_of_the_seeds_that_both_have(ablation):
    from ablation_cells import LENGTH, Cell
    from ablation_results import read, rows_of, tuning

    folder = ablation.RESULTS
    costs(folder)
    for row, rate in (("sphere", 4e-3), ("plane", 8e-3)):
        for cell in tuning("depth", row, folder):
            found_of(cell, 0.1 if cell.rate == rate else 0.2, np.ones((4, 2, 1)), folder)
    one = np.stack([np.array([[0.1], [1.0]])] * 4)
    for seed, value in enumerate((0.10, 0.12, 0.11)):
        found_of(Cell("depth", "sphere", LENGTH["all"]["depth"], 4e-3, seed), value, one, folder)
    for seed, value in enumerate((0.15, 0.16)):
        found_of(Cell("depth", "plane", LENGTH["all"]["depth"], 8e-3, seed), value, 2 * one, folder)
    rows = rows_of("depth", read(folder), folder)
    plane = rows["plane"]["upright"]
    assert plane["difference"] == pytest.approx((0.05 + 0.04) / 2)
    assert plane["over_seeds"][0] < plane["difference"] < plane["over_seeds"][1]
    assert rows["sphere"]["upright"]["mean"] == pytest.approx(0.11)
    assert "difference" not in rows["sphere"]["upright"]
    assert rows["plane"]["rate"] == 8e-3
    assert rows["plane-periodic"] is None
    assert rows["LSNO, own recipe"] is None


def test_scores_without_samples_are_compared_seed_by_seed(ablation):
    from ablation_cells import LENGTH, Cell
    from ablation_results import read, rows_of, student, tuning
    from ablation_table import _others

    folder, jet, stable = ablation.RESULTS, "jet, error / persistence", "stable for 200 steps"
    costs(folder)
    for row in ("sphere", "plane"):
        for cell in tuning("shallow-water", row, folder):
            found_of(cell, 0.1 if cell.rate == 4e-3 else 0.2, np.ones((4, 2, 1)), folder)
    jets = {"sphere": (0.6, 0.7), "plane": (0.8, 0.85, 0.3)}
    for row, values in jets.items():
        for seed, value in enumerate(values):
            cell = Cell("shallow-water", row, LENGTH["all"]["shallow-water"], 4e-3, seed)
            found_of(cell, 0.1, np.ones((4, 2, 1)), folder, **{jet: value, stable: float(seed == 0)})
    rows = rows_of("shallow-water", read(folder), folder)
    plane = rows["plane"]["others"][jet]
    assert plane["mean"] == pytest.approx(0.65)
    assert plane["difference"] == pytest.approx(0.175)  # of the two seeds that both have
    assert plane["over_seeds"] == pytest.approx(student(np.array([0.2, 0.15])))
    assert rows["sphere"]["others"][jet] == {"mean": pytest.approx(0.65)}
    head, _, first, second = _others(rows).splitlines()
    assert head == f"| row | {jet} | runs {stable} |"
    low, high = plane["over_seeds"]
    assert first == f"| plane | 0.650, +0.175 ({low:+.3f} to {high:+.3f}) | 33% |"
    assert second == "| sphere | 0.650 | 50% |"


def test_rows_at_twice_the_steps_are_of_runs_that_long_alone(ablation):
    from ablation_cells import LENGTH, Cell
    from ablation_results import own_recipe, read, rows_of, tuning
    from ablation_table import flatness

    folder, length = ablation.RESULTS, LENGTH["all"]["depth"]
    costs(folder)
    values = {0.5: 0.14, 1.0: 0.11, 2.0: 0.08}
    sums = np.ones((4, 2, 1))
    for cell in tuning("depth", "sphere", folder):
        found_of(cell, 0.1 if cell.rate == 4e-3 else 0.2, sums, folder)
    for factor, value in values.items():
        found_of(Cell("depth", "sphere", int(factor * length), 4e-3, 0), value, sums, folder)
    for cell in own_recipe("depth", "LSNO", range(2), folder):
        found_of(cell, 0.3, sums, folder)
    once, twice = (rows_of("depth", read(folder), folder, longer=factor) for factor in (1.0, 2.0))
    assert (once["sphere"]["steps"], twice["sphere"]["steps"]) == (length, 2 * length)
    assert once["sphere"]["upright"]["mean"] == 0.11
    assert twice["sphere"]["upright"]["mean"] == 0.08
    assert once["LSNO, own recipe"] is not None
    assert twice["LSNO, own recipe"] is None
    assert list(rows_of("depth", read(folder), folder, rows=("plane", "sphere"))) == ["plane", "sphere"]

    path = folder / "depth" / f"{Cell('depth', 'sphere', length, 4e-3, 0).name}.json"
    result = json.loads(path.read_text())
    ((name, _),) = result["validation"].items()
    result["validation"][name] = [[length // 2, 0.20], [7 * length // 8, 0.125], [length, 0.12]]
    path.write_text(json.dumps(result))
    found_of(Cell("depth", "sphere", length, 4e-3, 1), 0.14, sums, folder)
    found_of(Cell("depth", "sphere", 2 * length, 4e-3, 1), 0.13, sums, folder)
    found_of(Cell("depth", "sphere", length, 4e-3, 2), 0.13, sums, folder)
    flat = flatness("depth", read(folder), folder)
    assert flat["rows"]["plane"] == {"ends": {}, "seeds": [], "change": None, "spread": None, "last": None}
    sphere = flat["rows"]["sphere"]
    assert sphere["ends"] == {
        str(length // 4): 0.1,
        str(length // 2): 0.14,
        str(length): 0.12,
        str(2 * length): 0.08,
    }
    assert sphere["last"] == pytest.approx(-0.04)
    assert sphere["seeds"] == [0, 1]
    assert sphere["change"] == pytest.approx((-0.04 - 0.01) / 2)
    assert sphere["spread"] == pytest.approx(np.std([0.12, 0.14, 0.13], ddof=1))
    assert (flat["change"], flat["spread"]) == (sphere["change"], sphere["spread"])


def test_flat_is_what_twice_the_steps_change_less_than_seeds_do():
    from ablation_table import _verdict

    assert _verdict({"change": -0.011, "spread": 0.010}).endswith("not flat.")
    assert _verdict({"change": -0.009, "spread": 0.010}).endswith(": flat.")
    assert _verdict({"change": 0.011, "spread": 0.010}).endswith("not flat.")  # worse is not flat either
    assert "not been asked" in _verdict({"change": None, "spread": 0.010})


# the page ---------------------------------------------------------------------------------------------


def test_the_table_says_what_is_not_run_and_gives_every_row_its_intervals(ablation, monkeypatch, tmp_path):
    import ablation_table
    from ablation_cells import LENGTH, Cell
    from ablation_results import tuning

    folder = ablation.RESULTS
    costs(folder, SFNO=0.05)
    for row, rate in (("sphere", 8e-3), ("plane", 8e-3)):
        for cell in tuning("shallow-water", row, folder):
            found_of(cell, 0.3 if cell.rate == rate else 0.4, np.ones((4, 2, 3)), folder)
        for seed in range(2):
            cell = Cell("shallow-water", row, LENGTH["all"]["shallow-water"], rate, seed)
            found_of(cell, 0.25 + (row == "plane") * 0.01 * (1 + seed), np.ones((4, 2, 3)), folder)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables: x -->\nold\n<!-- end of tables -->\nafter\n")
    short = tmp_path / "short.md"
    tables = ("ablation", "ablation of few")
    short.write_text("".join(f"<!-- table: {name} -->\nold\n<!-- end -->\n" for name in tables))
    monkeypatch.setattr(ablation_table, "PAGE", page)
    monkeypatch.setattr(ablation_table, "SUMMARY", short)
    monkeypatch.setattr(ablation_table, "trivial", lambda task, data, work: {})
    ablation_table.write_table(folder, tmp_path / "work")
    text = page.read_text()
    assert text.startswith("before\n<!-- tables")
    assert text.endswith("<!-- end of tables -->\nafter\n")
    assert "old" not in text
    rows = [line for line in text.splitlines() if line.startswith("| plane |")]
    water = next(line for line in rows if "+0.0150" in line)
    assert "| 2 | 0.008 | 960 | 1,000 | 100 |" in water
    assert "0.2650 ± 0.0071" in water
    assert text.count("| plane-periodic | not run |") >= 3
    assert "| SFNO, own recipe | not run |" in text
    assert (tmp_path / "results.png").stat().st_size > 1000
    summary = short.read_text().splitlines()
    plane = next(line for line in summary if line.startswith("| plane |"))
    # over seeds from −0.049 to +0.079; no sample differs from another
    assert plane == "| plane | 0.265, +0.015 (-0.049 to +0.079) | not run | not run | not run | not run |"
    assert "| sphere | 0.250 | not run" in short.read_text()
    assert "old" not in short.read_text()


def test_only_differences_that_both_intervals_hold_are_in_bold():
    from ablation_table import _difference

    found = {"mean": 0.5, "difference": 0.1, "over_seeds": [0.05, 0.15], "over_samples": [0.02, 0.18]}
    assert _difference({"test": found}, "test") == "0.500, **+0.100 (+0.020 to +0.180)**"
    assert "**" not in _difference({"test": found | {"over_samples": [-0.01, 0.2]}}, "test")
    assert "**" not in _difference({"test": found | {"over_seeds": [-0.01, 0.2]}}, "test")
    assert _difference({"test": found | {"over_seeds": None}}, "test") == "0.500"


def test_the_page_has_the_tables_of_the_file(ablation):
    from ablation_table import PAGE, filled

    content = json.loads((RESULTS / "ablation.json").read_text())
    page = PAGE.read_text()
    assert filled(page, content) == page, "python benchmarks/ablation.py --table"


def test_the_file_has_what_the_cells_say(ablation):
    from ablation_cells import Cell, score_of
    from ablation_results import read, sums_of

    folder = RESULTS / "ablation"
    found = read(folder)
    content = json.loads((RESULTS / "ablation.json").read_text())
    assert content["cells"] == len(found)
    for key, result in found.items():
        assert Cell(**result["cell"]).key == key
        for test, sums in sums_of(result, folder).items():
            total = score_of(result["cell"]["task"], sums.sum(0))
            assert total == pytest.approx(result["scores"][test], rel=1e-4), key
