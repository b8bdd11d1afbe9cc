"""Sweeps: a grid from one file, killed and gone on with, halved by a rule, compared on what is comparable."""

import json
import math
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import yaml
from accessible import faint_texts, unnamed_controls
from browser import (
    browser,  # noqa: F401
    go_to,
    needs_browser,
    open_page,  # noqa: F401
    screenshot,
    workbench,  # noqa: F401
)
from browser import wait_for as wait_in_page
from conftest import SMALL, call_kto, only_json, wait_for
from safetensors.torch import load_file

from kto_workbench import KTOConfig, train
from kto_workbench.engine.training import train_run
from kto_workbench.errors import ConfigError, RunError, WorkbenchError
from kto_workbench.judging.statistics import ranking
from kto_workbench.runs import sweeping
from kto_workbench.runs.children import identity
from kto_workbench.runs.directory import new_run
from kto_workbench.runs.sweeps import (
    MOST_TRIALS,
    Plan,
    Sweep,
    create_sweep,
    find_sweep,
    list_sweeps,
    make_plan,
    read_plan,
    start,
    stop,
)
from kto_workbench.runs.trials import find_best, left_behind, left_over, rows, standings, t_95
from kto_workbench.shell.sweeping import in_words, summary
from kto_workbench.ui.sweeps import foreseen, show
from kto_workbench.ui.workbench import Workbench

SHORT = SMALL | dict(max_steps=6, eval_steps=2, save_steps=2)


@pytest.fixture
def config(tmp_path, small_data):
    return KTOConfig(data=str(small_data), workspace=str(tmp_path / "workspace"), **SHORT)


# what is comparable --------------------------------------------------------------------------------------------------


def test_ranking_by_hand():
    # 3 above 0 and 2, 1 above 0 alone: 3 of 4. Shares of the ups 1 and ½, of the downs 1 and ½: each has variance ⅛.
    assert ranking([3, 1], [0, 2]) == (0.75, pytest.approx(math.sqrt(0.125 / 2 + 0.125 / 2)))
    # All agree: at 95 %, no more than 3 of 4 could be otherwise.
    assert ranking([5, 6, 7, 8], [1] * 9) == (1.0, pytest.approx(0.75 / 1.96, rel=1e-4))
    assert ranking([1, 1], [1, 1])[0] == 0.5 and ranking([1], [2]) == (0.0, None) and ranking([], [1]) == (None, None)


def test_ranking_is_that_of_all_pairs_and_its_error_that_of_drawing_again():
    draw = random.Random(0)
    sample = lambda: ([draw.gauss(1, 1) for _ in range(40)], [draw.gauss(0, 1.5) for _ in range(60)])
    found = []
    for _ in range(300):
        up, down = sample()
        share, error = ranking(up, down)
        assert share == pytest.approx(statistics.fmean((a > b) + (a == b) / 2 for a in up for b in down))
        found.append((share, error))
    spread = statistics.stdev(share for share, _ in found)
    assert statistics.fmean(error for _, error in found) == pytest.approx(spread, rel=0.1)


def test_ranking_knows_no_scale():
    up, down = [0.3, -1.0, 2.0], [0.1, -2.0]
    by_beta = {beta: ranking([beta * x for x in up], [beta * x for x in down]) for beta in (0.03, 1, 30)}
    assert len(set(by_beta.values())) == 1


def test_a_run_records_how_it_ranks_its_held_out_rows(trained):
    evaluations = [record for record in trained.metrics() if "eval_loss" in record]
    assert evaluations
    for record in evaluations:
        assert 0 <= record["eval_ranking"] <= 1 and 0 < record["eval_ranking_error"] < 0.5
        assert record["eval_loss_error"] > 0
    assert evaluations[-1]["eval_ranking"] > 0.5


def test_reach_of_an_interval():
    # Student's table: 12.706, 4.303 and 2.776 at 1, 2 and 4; 2.228 at 10, 2.042 at 30.
    assert (t_95(1), t_95(2), t_95(4)) == (12.706, 4.303, 2.776)
    assert t_95(5) == pytest.approx(2.571, rel=0.01) and t_95(10) == pytest.approx(2.228, rel=0.002)
    assert t_95(30) == pytest.approx(2.042, rel=0.001) and t_95(math.inf) == pytest.approx(1.96, abs=1e-3)
    assert t_95(0) == math.inf


# plans ---------------------------------------------------------------------------------------------------------------


def test_a_plan_is_one_file_that_says_everything(config, tmp_path):
    plan = make_plan(config, {"beta": "0.03, 0.1,0.3,0.1", "learning-rate": "1e-4,3e-4"}, halving=2)
    assert plan.grid == {"beta": (0.03, 0.1, 0.3), "learning_rate": (1e-4, 3e-4)}
    assert [(t.values["beta"], t.values["learning_rate"]) for t in plan.trials()][:3] == [
        (0.03, 1e-4), (0.03, 3e-4), (0.1, 1e-4),
    ]  # fmt: skip
    assert all(t.config == config.replace(**t.values) for t in plan.trials())
    (tmp_path / "sweep.yaml").write_text(plan.to_yaml())
    assert read_plan(tmp_path / "sweep.yaml") == plan
    # Six points by two: after a quarter and after a half of the steps.
    assert plan.rungs() == [0.25, 0.5] and make_plan(config, plan.grid).rungs() == []
    assert make_plan(config, {"beta": "1,2,3,4,5,6,7,8,9"}, halving=3).rungs() == pytest.approx([1 / 9, 1 / 3])


def test_what_trials_are_compared_by_follows_from_the_config(config):
    grid = {"beta": "0.1,1"}
    assert make_plan(config, grid).by == "ranking"
    assert make_plan(config.replace(judge="demo"), grid).by == "judge"
    assert make_plan(config, {"learning_rate": "1e-4,1e-3"}, "eval_loss").by == "eval_loss"


@pytest.mark.parametrize(
    ("grid", "by", "changes", "sentence"),
    [
        ({"beta": "0.1"}, None, {}, "A sweep needs at least two trials: "),
        ({}, None, {}, "A sweep needs at least two trials: "),
        ({"bta": "0.1,1"}, None, {}, "There is no option `bta`; did you mean `beta`?"),
        ({"beta": "0.1,much"}, None, {}, "Option `beta` should be a number, not 'much'."),
        ({"beta": "0.1,-1"}, None, {}, "Option `beta` should be greater than 0, not -1."),
        ({"data": "demo,demo-rare"}, None, {}, "Option `data` is shared by all trials of a sweep, "),
        ({"judge": "shorter,longer"}, None, {}, "Option `judge` is shared by all trials of a sweep, "),
        ({"beta": "0.1,1"}, "eval_loss", {}, "Losses of different `beta` are not comparable: "),
        ({"desirable_weight": "1,2"}, "eval_loss", {}, "Losses of different `desirable_weight` are not comparable: "),
        ({"beta": "0.1,1"}, "judge", {}, "To compare trials by a judge, name one with option `judge`."),
        ({"beta": "0.1,1"}, "luck", {}, "Trials are compared by ranking, judge, eval_loss; not by 'luck'."),
        ({"beta": "0.1,1"}, None, {"eval_fraction": 0.0}, "Trials are compared on held-out rows: "),
        ({"objective": "kto,sft"}, None, {}, "Objective `sft` gives no rewards to rank rows by; "),
        ({"objective": "kto,dpo"}, None, {}, "Objectives on pairs and on single answers hold out other rows; "),
        ({"seed": ",".join(map(str, range(MOST_TRIALS + 1)))}, None, {}, f"That would be {MOST_TRIALS + 1} trials; "),
    ],
)
def test_refusals(config, grid, by, changes, sentence):
    with pytest.raises(ConfigError) as error:
        make_plan(config.replace(**changes), grid, by)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("changes", "grid", "sentence"),
    [
        (
            {"objective": "dpo"},
            {"beta": "0.1,1"},
            "has no prompt with both a thumb up and a thumb down, and so no pairs",
        ),
        ({}, {"model": "demo,/nowhere"}, "There is no model in /nowhere: no such folder."),
        (
            {
                "eval_fraction": 0.01
            },  # two rows are held out: one of each thumb with seed 0, two thumbs down with seed 1
            {"seed": "0,1"},
            "and with seed 1 that has no thumbs of both kinds: raise",
        ),
        ({"report_to": "nobody"}, {"beta": "0.1,1"}, "Option `report_to` should name any of "),
        ({"data": "nowhere.jsonl"}, {"beta": "0.1,1"}, "There is no file nowhere.jsonl."),
    ],
)
def test_what_no_trial_could_be_made_of_makes_no_sweep(config, changes, grid, sentence):
    with pytest.raises(WorkbenchError, match=re.escape(sentence)):
        create_sweep(make_plan(config.replace(**changes), grid))
    assert not list_sweeps(config.workspace)


@pytest.mark.parametrize(
    "text",
    ["", "grid: [1]\nconfig: {}", "config: {}", "grid: {beta: 3}\nconfig: {}", "a: [", "grid: {1: [2]}\nconfig: {}"],
)
def test_a_file_that_is_no_plan(tmp_path, text):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ConfigError, match="it has no `grid` and `config`"):
        read_plan(tmp_path / "sweep.yaml")


# halving and standings, on records written by hand -------------------------------------------------------------------


def made(plan, tmp_path, curves, states=()):
    """Runs of a plan's trials with these held-out rankings at steps 10, 20, … of 90; as a sweep's `runs()` has them."""
    runs = {}
    for number, curve in enumerate(curves, 1):
        run = new_run(plan.config.replace(workspace=str(tmp_path)), {"sweep": "s", "trial": number})
        state = dict(states).get(number, "finished" if len(curve) == 9 else "stopped")
        run.set_status(state=state, step=10 * len(curve), total_steps=90)
        for step, value in enumerate(curve, 1):
            run.record({"step": 10 * step, "eval_loss": 1.0, "eval_ranking": value, "eval_ranking_error": 0.02})
        runs[number] = run
    return runs


def test_halving_by_hand(config, tmp_path):
    plan = make_plan(config, {"beta": "1,2,3,4,5,6,7,8,9"}, halving=3)  # rungs behind steps 10 and 30 of 90
    first = [0.5, 0.9, 0.4, 0.7, 0.3, 0.2, 0.8, 0.1, 0.6]
    best = {2: [0.9, 0.5, 0.6], 7: [0.8, 0.7, 0.75], 4: [0.7, 0.9, 0.5]}
    waiting = made(plan, tmp_path / "a", [[value] for value in first[:8]])
    assert left_behind(plan, waiting) == {}  # the ninth is yet to come
    once = made(plan, tmp_path / "b", [[value] for value in first])
    gone = left_behind(plan, once)
    assert {point[0][1]: part for point, part in gone.items()} == {b: 1 / 9 for b in (1, 3, 5, 6, 8, 9)}
    # Behind a third, of 0.6, 0.75 and 0.5 one goes on; what they had before or between does not count.
    twice = made(plan, tmp_path / "c", [best.get(n, [value]) for n, value in enumerate(first, 1)])
    gone = left_behind(plan, twice)
    assert {point[0][1] for point in gone} == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 9.0}
    assert {part for point, part in gone.items() if point[0][1] in (2, 4)} == {1 / 3}


def test_halving_counts_a_failure_as_the_worst_and_seeds_together(config, tmp_path):
    plan = make_plan(config, {"beta": "1,2", "seed": "1,2"}, halving=2)  # two points; rung behind 45 of 90
    curve = lambda value: [0.5, 0.5, 0.5, 0.5, value]
    # β 1: mean of 0.9 and 0.5 is 0.7; β 2: mean of 0.8 and 0.7 is 0.75, though its best is not the best of all.
    gone = left_behind(plan, made(plan, tmp_path / "a", map(curve, (0.9, 0.5, 0.8, 0.7))))
    assert list(gone) == [(("beta", 1.0),)]
    failed = made(plan, tmp_path / "b", [curve(0.9), curve(0.9), [0.99], [0.99]], {3: "failed", 4: "failed"})
    assert list(left_behind(plan, failed)) == [(("beta", 2.0),)]
    # Stopped with the sweep, it may go on: nothing is decided; one that this process has given up is lost.
    stopped = made(plan, tmp_path / "c", [curve(0.9), curve(0.9), curve(0.1), [0.99]])
    assert left_behind(plan, stopped) == {}
    assert list(left_behind(plan, stopped, {3, 4})) == [(("beta", 2.0),)]


def test_two_rungs_without_an_evaluation_between_cut_once(config, tmp_path):
    plan = make_plan(config, {"beta": "1,2,3,4,5,6,7,8,9"}, halving=3)
    runs = made(plan, tmp_path, [[0.1 * n] for n in range(1, 10)])
    for run in runs.values():  # one evaluation, behind both rungs
        (run.path / "metrics.jsonl").write_text(
            (run.path / "metrics.jsonl").read_text().replace('"step": 10', '"step": 40')
        )
    assert len(left_behind(plan, runs)) == 6


def row(number, value, error=0.1, state="finished"):
    return {"trial": number, "state": state, "value": value, "error": error}


def test_the_best_and_who_can_not_be_told_apart(config):
    plan = make_plan(config, {"beta": "1,2,3,4"})
    found = [row(1, 0.70, 0.01), row(2, 0.80, 0.02), row(3, 0.75, 0.02), row(4, 0.9, 0.0, "running")]
    best = find_best(None, found, plan)
    # 0.80 ± 1.96·0.02 is 0.761 to 0.839; 0.75's ends at 0.789, 0.70's at 0.720.
    assert best["values"] == {"beta": 2.0} and best["interval"] == pytest.approx([0.7608, 0.8392], abs=1e-4)
    assert best["not_apart"] == [{"beta": 3.0}] and best["over"] == "rows"
    assert find_best(None, [row(n, None, state="planned") for n in range(1, 5)], plan) is None
    told = in_words({"sweep": "s", "state": "finished", "by": "ranking", "best": best})
    assert told == (
        "Best ranking: 0.800 ± 0.020 with beta 2 (standard error over held-out rows); not distinguishable from beta 3: "
        "their 95 % intervals overlap."
    )


def test_the_best_over_seeds(config):
    plan = make_plan(config, {"beta": "1,2", "seed": "1,2,3"})
    found = [row(n, value) for n, value in enumerate((0.70, 0.74, 0.72, 0.60, 0.61, 0.62), 1)]
    best, other = standings(plan, found)
    # 0.02 over √3 is 0.01155; t at 2 is 4.303: ± 0.0497. The other: 0.01 over √3, ± 0.0248.
    assert (best.value, best.error) == (pytest.approx(0.72), pytest.approx(0.011547))
    assert (best.low, other.high) == (pytest.approx(0.6703, abs=1e-4), pytest.approx(0.6348, abs=1e-4))
    assert best.over == "seeds" and best.trials == [1, 2, 3] and not best.overlaps(other)
    still = [*found[:5], row(6, 0.62, state="running")]
    assert len(standings(plan, still)) == 1  # a point counts when all its seeds are through


def test_of_losses_the_lowest_is_the_best(config):
    plan = make_plan(config, {"learning_rate": "1e-3,1e-2"}, "eval_loss")
    assert find_best(None, [row(1, 0.4), row(2, 0.3)], plan)["values"] == {"learning_rate": 0.01}
    unknown = find_best(None, [row(1, 0.4, None), row(2, 0.3, None)], plan)
    assert unknown["interval"] is None and unknown["not_apart"] == [{"learning_rate": 0.001}]


# with real processes -------------------------------------------------------------------------------------------------


def adapter_of(run):
    found = load_file(run.adapter / "adapter_model.safetensors")
    return {name: tensor.tolist() for name, tensor in found.items()}


def adapters(sweep):
    return {number: adapter_of(run) for number, run in sweep.runs().items()}


def kill_family(*pids):
    for pid in pids:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            process.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids))


def killed_in_the_middle(config, tmp_path, grid, trial, in_step):
    """A sweep whose process and whose trial are killed, and that is then gone on with, is as one that was not."""
    config_file = tmp_path / "config.yaml"
    config_file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = [word for option in grid for word in ("--grid", option)]
    told = only_json(call_kto("sweep", config_file, *arguments, "--detach", "--json"))
    sweep = Sweep(told["path"])

    def at_work():
        run = sweep.runs().get(trial)
        return run and run.status().step >= in_step and run.latest_checkpoint() and run

    run = wait_for(at_work, seconds=900, what=f"trial {trial} of {sweep.log_path}")
    kill_family(sweep.state()["pid"], run.status().pid)
    assert sweep.state()["state"] == "crashed" and run.status().state == "crashed"
    before = {number: (one.path / "metrics.jsonl").stat().st_mtime_ns for number, one in sweep.runs().items()}
    reached = run.status().step
    assert set(before) == set(range(1, trial + 1))

    call_kto("sweep", sweep.id, "--workspace", config.workspace, "--detach")
    wait_for(lambda: not sweep.active, seconds=900, what=f"the end of {sweep.log_path}")
    done = only_json(call_kto("sweep", sweep.id, "--workspace", config.workspace, "--json"))
    assert done["state"] == "finished" and [one["state"] for one in done["rows"]] == ["finished"] * len(done["rows"])
    runs = sweep.runs()
    assert len(list((sweep.workspace / "runs").iterdir())) == len(done["rows"])  # none twice
    for number in range(1, trial):
        assert (runs[number].path / "metrics.jsonl").stat().st_mtime_ns == before[number]  # not touched again
    assert runs[trial].status().first_step > 0 and reached < config.max_steps  # resumed, and not from the beginning
    return sweep, done


def test_a_sweep_killed_in_the_middle_goes_on_where_it_was(config, tmp_path):
    config = config.replace(max_steps=40, eval_steps=40, save_steps=4)
    sweep, done = killed_in_the_middle(config, tmp_path, ["beta=0.3,1"], trial=2, in_step=6)
    # The reference is computed once: rows and partners are the same whatever β is.
    assert done["rows"][0]["reference"]["computed"] > 0 and done["rows"][1]["reference"] == {
        "computed": 0, "reused": pytest.approx(done["rows"][1]["reference"]["reused"]), "seconds": 0.0,
    }  # fmt: skip
    listed = only_json(call_kto("runs", "--json", "--workspace", config.workspace))["runs"]
    assert {one["trial"]: one["sweep"] for one in listed} == {1: sweep.id, 2: sweep.id}
    # The trial that was broken off is as one that never was.
    alone = train(sweep.plan().trials()[1].config, progress=False)
    assert adapter_of(sweep.runs()[2]) == adapter_of(alone)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nine_runs_killed_in_the_middle_go_on_where_they_were(config, tmp_path):
    config = config.replace(max_steps=40, eval_steps=40, save_steps=4)
    grid = ["beta=0.3,1,3", "learning_rate=5e-4,1e-3,2e-3"]
    sweep, done = killed_in_the_middle(config, tmp_path, grid, trial=5, in_step=6)
    assert [one["reference"]["computed"] for one in done["rows"][1:]] == [0] * 8
    # From its file alone, another workspace gets the same nine adapters.
    plan = read_plan(sweep.path / "sweep.yaml")
    again = create_sweep(Plan(plan.config.replace(workspace=str(tmp_path / "other")), plan.grid, plan.by, plan.halving))
    assert sweeping.main(str(again.path)) == 0 and adapters(again) == adapters(sweep)


def in_a_thread(run):
    """A trial in the process that works on its sweep, instead of one that takes longer to wake than to train."""
    threading.Thread(target=train_run, args=(run,), daemon=True).start()


@pytest.fixture
def here(monkeypatch):
    """Each trial in a thread of this process."""
    monkeypatch.setattr(sweeping, "start", in_a_thread)


def test_nine_runs_killed_in_the_fifth_go_on_there(config, here):
    config = config.replace(max_steps=4, eval_steps=4, save_steps=2)
    sweep = create_sweep(make_plan(config, {"beta": "0.3,1,3", "learning_rate": "5e-4,1e-3,2e-3"}))
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_sweeps import in_a_thread, sweeping;"
        "sweeping.start = in_a_thread; sweeping.main(sys.argv[1])"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, sweep.path, Path(__file__).parent])
    fifth = wait_for(lambda: sweep.runs().get(5), what=f"trial 5 of {sweep.log_path}")
    wait_for(fifth.latest_checkpoint, what=f"a checkpoint of {fifth.log()}")
    worker.kill()
    worker.wait()
    assert sweep.state()["state"] == fifth.status().state == "crashed" and sorted(sweep.runs()) == [1, 2, 3, 4, 5]
    stamps = lambda: [(run.path / "metrics.jsonl").stat().st_mtime_ns for _, run in sorted(sweep.runs().items())]
    before = stamps()
    assert sweeping.main(str(sweep.path)) == 0
    assert [row["state"] for row in rows(sweep)] == ["finished"] * 9 and stamps()[:4] == before[:4]
    assert sorted(sweep.runs()) == [*range(1, 10)] and len(list((sweep.workspace / "runs").iterdir())) == 9
    assert fifth.status().first_step == 2
    for number in (5, 6):  # the one that was broken off, and one that came after
        alone = train(sweep.plan().trials()[number - 1].config, progress=False)
        assert adapter_of(sweep.runs()[number]) == adapter_of(alone)


def test_a_run_that_was_deleted_is_trained_again_by_resume_alone(config, here):
    sweep = create_sweep(make_plan(config.replace(max_steps=2, save_steps=0), {"beta": "0.3,1"}))
    assert sweeping.main(str(sweep.path)) == 0
    first, second = (sweep.runs()[number] for number in (1, 2))
    kept, learned = second.status(), adapter_of(first)
    worker = sweeping._Worker(sweep)
    shutil.rmtree(first.path)
    worker._advance(sweep.plan().trials()[0], None)  # amid the work: it is not made again behind somebody's back
    assert worker.given_up == {1} and list(sweep.runs()) == [2]
    assert [row["state"] for row in rows(sweep)] == ["planned", "finished"] and left_over(rows(sweep)) == [1]
    shown = call_kto("sweep", sweep.id, "--workspace", config.workspace).stdout
    assert shown.endswith(f"1 of its runs failed or are gone; `kto resume {sweep.id}` trains them again.\n")
    assert list(sweep.runs()) == [2]
    assert sweeping.main(str(sweep.path)) == 0  # what `kto resume` starts
    assert adapter_of(sweep.runs()[1]) == learned and second.status() == kept


def test_a_sweep_that_is_stopped_goes_on(config, here):
    sweep = create_sweep(make_plan(config.replace(max_steps=12, save_steps=0), {"beta": "0.3,1"}))
    with pytest.raises(RunError, match="so it can't be asked to stop"):
        stop(sweep)
    worker = threading.Thread(target=sweeping.main, args=(str(sweep.path),))
    worker.start()
    run = wait_for(lambda: sweep.runs().get(1))
    wait_for(lambda: run.status().step >= 1, what=f"a step of {run.log()}")
    with pytest.raises(RunError, match="already"):
        start(sweep)
    stop(sweep)
    worker.join()
    assert sweep.state()["state"] == "stopped" and list(sweep.runs()) == [1]
    assert run.status().state == "stopped" and run.trained() and 1 <= run.status().step < 12
    assert [one["state"] for one in rows(sweep)] == ["stopped", "planned"] and summary(sweep)["best"] is None
    assert sweeping.main(str(sweep.path)) == 0
    assert [one["state"] for one in rows(sweep)] == ["finished", "finished"]
    assert adapter_of(run) == adapter_of(train(sweep.plan().trials()[0].config, progress=False))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kto stop", "a polite kill"])
def test_stop_ends_the_processes_of_a_sweep(config, how):
    sweep = create_sweep(make_plan(config.replace(max_steps=400, save_steps=0), {"beta": "0.3,1"}))
    pid = start(sweep)
    run = wait_for(lambda: sweep.runs().get(1))
    wait_for(lambda: run.status().step >= 2, what=f"the second step of {run.log()}")
    if how == "kto stop":
        said = call_kto("stop", sweep.id, "--workspace", sweep.workspace).stdout
        assert said.startswith(f"Sweep {sweep.id} was asked to stop")
    else:
        psutil.Process(pid).terminate()
    wait_for(lambda: sweep.state()["state"] == "stopped")
    assert run.status().state == "stopped" and run.trained() and list(sweep.runs()) == [1]


def test_hopeless_trials_are_ended_and_the_others_go_on_exactly(config, here):
    config = config.replace(max_steps=24, eval_steps=6, save_steps=0)
    plan = make_plan(config, {"learning_rate": "1e-6,3e-3,1e-5,1e-2"}, halving=2)  # rungs behind steps 6 and 12
    sweep = create_sweep(plan)
    assert sweeping.main(str(sweep.path)) == 0 and sweep.state()["state"] == "finished"
    table = rows(sweep)
    assert sorted(one["state"] for one in table) == ["ended", "ended", "ended", "finished"]
    assert sorted(one["ended_at"] or 1 for one in table) == [0.25, 0.25, 0.5, 1]
    # The two that were trained the least are those with the lowest ranking behind step 6.
    first = {n: next(r["eval_ranking"] for r in run.metrics() if "eval_loss" in r) for n, run in sweep.runs().items()}
    worst = sorted(first, key=lambda n: (-first[n], n))[2:]
    assert {one["trial"] for one in table if one["ended_at"] == 0.25} == set(worst)
    assert all(6 <= one["step"] < 24 for one in table if one["state"] == "ended")
    finished = next(one["trial"] for one in table if one["state"] == "finished")
    whole = adapter_of(train(plan.trials()[finished - 1].config, progress=False))
    assert adapter_of(sweep.runs()[finished]) == whole  # though it was stopped twice


def test_what_the_shell_refuses_and_lists(config, tmp_path):
    call = lambda *words, code: call_kto("sweep", *words, "--workspace", tmp_path, code=code)
    assert "A grid is written OPTION=A,B,C" in call("demo", "--grid", "beta", code=2).stderr
    assert "There is no sweep 'sweep-2'" in call("sweep-2", code=2).stderr
    assert call(code=0).stdout.startswith(f"No sweeps in {tmp_path} yet")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "sweeps").exists()
    sweep = create_sweep(make_plan(config.replace(workspace=str(tmp_path)), {"beta": "0.1,1"}))
    assert find_sweep(sweep.id, tmp_path).path == sweep.path and find_sweep("demo", tmp_path) is None
    listed = only_json(call("--json", code=0))["sweeps"]
    assert [(one["sweep"], one["state"], len(one["rows"])) for one in listed] == [(sweep.id, "stopped", 2)]


def test_damage_is_told(config):
    sweep, whole = (create_sweep(make_plan(config, {"beta": "0.1,1"})) for _ in range(2))
    (sweep.path / "sweep.yaml").write_text("grid: [")
    listed = call_kto("sweep", "--workspace", config.workspace).stdout
    assert f"{sweep.id}  damaged   There is no sweep in the file " in listed and f"{whole.id}  stopped" in listed
    assert "There is no sweep" in call_kto("sweep", sweep.id, "--workspace", config.workspace, code=2).stderr
    (sweep.path / "state.json").write_text("{")
    assert sweep.state()["state"] == "crashed" and "state.json" in sweep.state()["error"]
    nobody = {"state": "running", "pid": 2**22 + 12345, "process_started": 1.0}
    (sweep.path / "state.json").write_text(json.dumps(nobody))
    assert sweep.state()["state"] == "crashed" and not sweep.active
    # Another process's sweep stays its own.
    (sweep.path / "state.json").write_text(json.dumps({"state": "running", **identity(os.getppid())}))
    assert sweeping.main(str(sweep.path)) == 2
    assert sweep.state()["state"] == "running" and sweep.state()["pid"] == os.getppid()


# in the page ---------------------------------------------------------------------------------------------------------


def test_the_table_says_who_is_best_and_who_was_ended(config, tmp_path):
    plan = make_plan(config.replace(workspace=str(tmp_path)), {"beta": "1,2,3"}, halving=3)
    sweep = create_sweep(plan)
    for number, (values, state) in enumerate(
        (([0.9] * 9, "finished"), ([0.5] * 3, "stopped"), ([0.7] * 3, "stopped")), 1
    ):
        run = new_run(plan.trials()[number - 1].config, {"sweep": sweep.id, "trial": number})
        run.set_status(state=state, step=10 * len(values), total_steps=90)
        for step, value in enumerate(values, 1):
            run.record({"step": 10 * step, "eval_ranking": value, "eval_ranking_error": 0.02})
    drawn = show("en", sweep)
    assert "The best ranking: 0.900 ± 0.020 with β 1; the standard error is over held-out rows." in drawn
    assert "No other was trained to its end, to compare it with." in drawn and "overlap" not in drawn
    assert drawn.count("not among the best behind 33% of its steps") == 2 and "a half is chance" in drawn
    assert in_words(summary(sweep)).endswith("; no other point of the grid is trained to its end, to compare it with.")
    assert drawn.count("<circle") == 2 * 3 and 'aria-label="Ranking by β, with its 95 % interval"' in drawn
    chinese = show("zh", sweep)
    assert "最佳排序：β 1，0.900 ± 0.020（标准误按留出的行计算）。" in chinese and chinese.count("提前结束") == 2
    (sweep.path / "sweep.yaml").write_text("grid: {beta: ['<b>', 2]}\nconfig: {}")
    assert "<b>" not in show("en", sweep) and "&lt;b&gt;" in show("en", sweep)


def test_what_a_sweep_would_take_is_foreseen(config, trained, tmp_path):
    bench = Workbench(tmp_path)
    shutil.copytree(trained.path, tmp_path / "runs" / trained.id)
    plan = make_plan(trained.config().replace(data="demo", workspace=str(tmp_path)), {"beta": "1,2,3"})
    told = foreseen(bench, plan, "en")
    status, steps = trained.status(), trained.status().total_steps
    once = (status.ended - status.training_started) / (status.step - status.first_step) * steps
    assert told == f"3 runs, about {round(3 * once)} s, each to its end."
    empty = Workbench(tmp_path / "other")
    assert foreseen(empty, plan, "en") == "3 runs, each to its end."


@needs_browser
@pytest.mark.timeout(300)
def test_a_sweep_in_the_page(workbench, open_page):  # noqa: F811
    page = open_page(workbench.url)
    go_to(page, "Train")
    page.locator("#train-more button").first.click()
    for name, value in {"max-steps": 2, "sample-steps": -1, "threads": 1}.items():
        page.locator(f"#train-{name} input").fill(str(value))
    go_to(page, "Runs")
    page.locator("#sweep button").first.click()
    page.locator("#sweep-values-1 input, #sweep-values-1 textarea").first.fill("much")
    wait_in_page(lambda: "should be a number" in page.inner_text("#sweep-preview"), 20)
    page.locator("#sweep-values-1 input, #sweep-values-1 textarea").first.fill("0.3, 1")
    wait_in_page(lambda: page.inner_text("#sweep-preview").startswith("2 runs"), 20)
    page.click("#sweep-start")
    shown = lambda: page.inner_text("#sweep-result")
    wait_in_page(lambda: shown().count("finished") == 2 and "The best ranking" in shown(), 240, shown)
    assert "2 / 2" in shown() and not page.inner_text("#sweep-message").strip()
    wait_in_page(lambda: "finished" in page.locator("#sweep-shown input").input_value(), 20)
    # The history above knows of them, though nobody has left the tab.
    wait_in_page(lambda: page.locator("#runs-table tbody tr").count() == 2, 20)
    assert not unnamed_controls(page) and not faint_texts(page)
    screenshot(page, "sweep-1280")
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    screenshot(page, "sweep-390")
