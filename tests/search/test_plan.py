"""What is said of a sweep before it runs, against what then happens, and every bad input once."""

import json
import math
import os
import random
import signal
import time
from io import StringIO
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import BaseModel, TypeAdapter
from rich.console import Console

from search.driver import load_checked_sweep, load_rows, run_sweep
from search.events import RunError
from search.plan import Plan, _num_structures, make_plan
from search.plan_cost import Range, cost_of, machine
from search.plan_page import plan_page
from search.plan_samples import Sample, dry_draws
from search.search import Report
from spaces.params import SpaceError
from spaces.sweep import Sweep
from tests.search.conftest import make_sweep, start
from tests.tiny import Softmax
from trainers.contract import DataError, Infeasible, TrainError
from trainers.folds import make_folds

CATALOG = Path(__file__).parents[2] / "spaces" / "catalog"
WIDTH = 100


def page(plan: Plan) -> str:
    """The plan as a terminal shows it, spaces and line ends run together."""
    console = Console(width=WIDTH, file=StringIO(), record=True)
    console.print(plan_page(plan))
    text = console.export_text()
    assert all(len(line.rstrip()) <= WIDTH for line in text.splitlines())
    return " ".join(text.split())


def rows_file(folder: Path, **counts: int) -> dict[str, str]:
    """So many random rows of each class, as a data set."""
    labels = [name for name, count in counts.items() for _ in range(count)]
    rows = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "labels.npy", np.array(labels))
    return {"kind": "npy", "path": str(folder / "rows.npy"), "labels": str(folder / "labels.npy")}


def warnings_of(tmp_path: Path, dataset: Any, **sections: Any) -> str:
    return "\n".join(make_plan(make_sweep(dataset=dataset, **sections), tmp_path, measure=False).warnings)


def trained(sweep: Sweep, seed: int) -> int:
    """Epochs of a real search whose trials have random scores, on three workers."""
    search, _ = start(sweep)
    chance = random.Random(seed)
    scores: dict[int, float] = {}
    at_work: dict[int, int] = {}
    while True:
        while len(at_work) < 3 and (stretch := search.next_trial()):
            at_work[stretch.trial] = stretch.reported
            scores.setdefault(stretch.trial, chance.random())
        if not at_work:
            return search.run.epochs
        trial = chance.choice(list(at_work))
        at_work[trial] += 1
        if search.report(Report(trial, at_work[trial], {"macro_f1": scores[trial]})) != "continue":
            del at_work[trial]


class Shorter:
    """Builds nothing, and has its epochs as a param."""

    class Settings(BaseModel):
        epochs: int = 9

    def check(self, settings: Any, fold: Any) -> int:
        return 0

    def train(self, settings: Any, fold: Any, start: Path | None) -> Any:
        raise NotImplementedError

    def load(self, folder: Path) -> Any:
        raise NotImplementedError


class Helpless(Shorter):
    """Lacks something that every model needs."""

    def check(self, settings: Any, fold: Any) -> int:
        raise TrainError("there is no Java")


class Faulty(Shorter):
    """Has a fault that only some configurations meet."""

    def check(self, settings: Any, fold: Any) -> int:
        if settings.epochs == 4:
            raise ZeroDivisionError("units by heads\nand more")
        return 7


class Frozen(Softmax):
    """First makes something of all rows that then serves all trials."""

    def train(self, settings: Any, fold: Any, start: Path | None) -> Any:
        file = fold.cache / "features.bin"
        if not file.exists():
            time.sleep(FROZEN_S)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(bytes(3_000_000))
        yield from super().train(settings, fold, start)


FROZEN_S = 1.2


class Compiled(Softmax):
    """Keeps its model for the next trial of the same structure, which then has none to build."""

    kept: ClassVar[set[str]] = set()
    starts: ClassVar[list[tuple[int, bool]]] = []
    """Of each trial the rows that it learns from, and whether it built its model."""

    def structure(self, settings: Any) -> str:
        return "the only one"

    def forget(self) -> None:
        self.kept.clear()

    def train(self, settings: Any, fold: Any, start: Path | None) -> Any:
        structure = self.structure(settings)
        self.starts.append((len(fold.train), structure not in self.kept))
        self.kept.discard(structure)
        try:
            yield from super().train(settings, fold, start)
        finally:
            self.kept.add(structure)


class TestLadder:
    @pytest.mark.parametrize("rule", ["promote", "stop"])
    @pytest.mark.parametrize(("trials", "grace", "reduction"), [(40, 3, 3), (12, 1, 3), (20, 2, 4)])
    def test_real_searches_train_as_many_epochs_as_expected(
        self, tmp_path: Path, rule: str, trials: int, grace: int, reduction: int
    ) -> None:
        sweep = make_sweep(
            epochs=27,
            search={"suggester": "random", "trials": trials},
            asha={"grace": grace, "reduction": reduction, "rule": rule},
        )
        expected = make_plan(sweep, tmp_path, measure=False).ladder.epochs
        epochs = [trained(sweep, seed) for seed in range(30)]
        assert expected.low <= mean(epochs) <= expected.high
        assert sum(expected.low <= count <= expected.high for count in epochs) >= 0.7 * len(epochs)

    def test_about_one_in_reduction_goes_on_at_each_rung(self, tmp_path: Path) -> None:
        sweep = make_sweep(epochs=27, search={"suggester": "random", "trials": 90})
        reached = make_plan(sweep, tmp_path, measure=False).ladder.reached
        assert list(reached) == [1, 3, 9, 27] and reached[1] == 90
        assert 30 <= reached[3] <= 40 and 10 <= reached[9] <= 16 and 3 <= reached[27] <= 7

    def test_without_asha_every_trial_trains_to_its_end(self, tmp_path: Path) -> None:
        ladder = make_plan(make_sweep(asha="off"), tmp_path, measure=False).ladder
        assert ladder.epochs == Range(108, 108, 108) and ladder.full_epochs == 108
        assert ladder.reached == {9: 12} and not ladder.other_rules

    def test_trials_end_where_their_own_epochs_say(self, tmp_path: Path) -> None:
        sweep = make_sweep(asha="off", trainer="tests.search.test_plan:Shorter", space={"epochs": [2, 4]})
        ladder = make_plan(sweep, tmp_path, measure=False, draws=50).ladder
        assert 24 < ladder.epochs.central < 48 and max(ladder.reached) == 4

    def test_grid_counts_only_what_has_a_model(self, tmp_path: Path) -> None:
        space = {"mishap": ["none", "infeasible"], "batch_size": [8, 16, 32]}
        sweep = make_sweep(search={"suggester": "grid"}, space=space, asha="off")
        assert make_plan(sweep, tmp_path, measure=False).ladder.trials == 3


class TestData:
    def test_counts_every_split(self, tmp_path: Path) -> None:
        dataset = rows_file(tmp_path, many=100, few=50)
        data = make_plan(make_sweep(dataset=dataset), tmp_path, measure=False).data
        assert dict(zip(data.classes, data.counts["test"], strict=True)) == {"few": 10, "many": 20}
        assert {name: sum(counts) for name, counts in data.counts.items()} == {
            "train": 96,
            "valid": 24,
            "test": 30,
        }
        assert data.guessing["accuracy"] == pytest.approx(2 / 3)
        assert data.guessing["macro_f1"] == pytest.approx(0.4)

    def test_an_answer_without_a_look_at_the_rows_is_their_shares(self, tmp_path: Path) -> None:
        dataset = rows_file(tmp_path, many=100, few=50)
        plan = make_plan(make_sweep(dataset=dataset, objective="log_loss"), tmp_path, measure=False)
        entropy = -(2 * np.log(2 / 3) + np.log(1 / 3)) / 3
        assert plan.data.guessing["log_loss"] == pytest.approx(entropy)
        assert "answering with the classes' shares in training: accuracy 0.667, log_loss 0.637" in page(plan)

    def test_class_with_few_rows_to_rank_on_comes_with_its_interval(self, tmp_path: Path) -> None:
        dataset = rows_file(tmp_path, many=300, few=56)
        text = warnings_of(tmp_path, dataset)
        assert "class 'few' is ranked on 9 rows" in text and "0.23 to 0.77" in text and "use kfold" in text

    def test_kfold_ranks_on_the_rows_of_all_folds(self, tmp_path: Path) -> None:
        dataset = rows_file(tmp_path, many=300, few=56)
        assert "ranked on" not in warnings_of(tmp_path, dataset, validation={"kfold": 5})

    def test_accuracy_is_no_objective_for_a_rare_class(self, tmp_path: Path) -> None:
        dataset = rows_file(tmp_path, healthy=970, ill=160)
        text = warnings_of(tmp_path, dataset, objective="accuracy")
        assert "never finds 'ill' (14.1% of the rows)" in text and "rank by macro_f1" in text
        assert "macro_f1" not in warnings_of(tmp_path, dataset, objective="mcc")
        balanced = rows_file(tmp_path, healthy=300, ill=160)
        assert "macro_f1" not in warnings_of(tmp_path, balanced, objective="accuracy")

    def test_class_that_the_test_rows_lack(self, tmp_path: Path) -> None:
        lines = [f"{i % 7},{i % 5},{'ab'[i % 2]}" for i in range(80)]
        (tmp_path / "rows.csv").write_text("\n".join(["one,two,label", *lines]))
        (tmp_path / "test.csv").write_text("one,two,label\n1,2,a\n3,4,a\n")
        paths = {name: str(tmp_path / file) for name, file in (("path", "rows.csv"), ("test", "test.csv"))}
        text = warnings_of(tmp_path, {"kind": "csv", "label": "label", **paths})
        assert "test rows have none of class 'b'" in text

    def test_more_trials_than_configurations(self, tmp_path: Path) -> None:
        plan = make_plan(make_sweep(space={"batch_size": [8, 16]}), tmp_path, measure=False)
        assert any("12 trials are more than the 2 configurations" in line for line in plan.warnings)


class TestDraws:
    def test_small_space_is_built_as_a_whole(self, tmp_path: Path) -> None:
        space = {"mishap": ["none", "infeasible"], "batch_size": [8, 16, 32, 64]}
        plan = make_plan(make_sweep(space=space), tmp_path, measure=False)
        assert (plan.draws.drawn, plan.draws.feasible, plan.draws.is_whole) == (8, 4, True)
        assert "all 8 built" in page(plan) and "50% infeasible" in page(plan)

    def test_share_of_infeasible_draws_comes_with_its_reasons(self, tmp_path: Path) -> None:
        space = {"mishap": ["none", "infeasible"], "learning_rate": {"float": [-1.0, 1.0]}}
        draws = make_plan(make_sweep(space=space), tmp_path, measure=False).draws
        assert draws.drawn == 200 and not draws.is_whole
        assert 110 <= sum(draws.infeasible.values()) <= 190
        reasons = " | ".join(draws.infeasible)
        assert "mishap: this configuration has no model" in reasons and "learning_rate:" in reasons

    def test_dry_draws_name_a_reason_or_none(self, tmp_path: Path) -> None:
        sweep = make_sweep(space={"mishap": ["none", "infeasible"]})
        fold = make_folds(*load_rows(sweep, tmp_path), epochs=1)[0]
        reasons = list(dry_draws(sweep, fold, 20))
        assert len(reasons) == 20
        assert set(reasons) == {"", "mishap: this configuration has no model"}

    def test_configuration_that_fails_is_one_without_a_model(self, tmp_path: Path) -> None:
        sweep = make_sweep(trainer="tests.search.test_plan:Faulty", space={"epochs": [2, 4]})
        plan = make_plan(sweep, tmp_path, measure=False)
        assert plan.draws.infeasible == {"fails: ZeroDivisionError: units by heads": 1}
        assert plan.draws.smallest.weights == 7

    def test_no_feasible_draw_is_an_error(self, tmp_path: Path) -> None:
        sweep = make_sweep(fixed={"mishap": "infeasible"})
        with pytest.raises(SpaceError, match="none of 200 configurations has a model.*200 x mishap"):
            make_plan(sweep, tmp_path)


class TestSamples:
    def test_smallest_median_and_largest_are_measured(self, tmp_path: Path) -> None:
        plan = make_plan(make_sweep(space={"epoch_s": [0.02, 0.05, 0.08]}), tmp_path)
        epochs = sorted(sample.epoch_s or 0 for sample in plan.samples)
        assert len(epochs) == 3
        assert epochs[0] >= 0.02 and epochs[-1] >= 0.08
        assert all(sample.checkpoint_bytes > 500 and sample.line_bytes > 200 for sample in plan.samples)
        assert plan.cost and plan.cost.work_s.low >= plan.ladder.epochs.low * epochs[0]

    def test_run_then_takes_about_so_many_epochs_and_so_much_disk(self, tmp_path: Path) -> None:
        sweep = make_sweep(asha={"grace": 3})
        plan = make_plan(sweep, tmp_path)
        run = run_sweep(sweep, tmp_path / "run", "local")
        assert 0.7 * plan.ladder.epochs.low <= run.epochs <= 1.5 * plan.ladder.epochs.high
        files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
        assert plan.cost and plan.cost.disk_bytes
        disk = sum(file.stat().st_size for file in files)
        assert 0.7 * plan.cost.disk_bytes.low <= disk <= 1.5 * plan.cost.disk_bytes.high

    def test_folds_are_all_trained(self, tmp_path: Path) -> None:
        sweep = make_sweep(fixed={"epoch_s": 0.02}, validation={"kfold": 4})
        plan = make_plan(sweep, tmp_path)
        assert all(sample.epoch_s and sample.epoch_s >= 0.08 for sample in plan.samples)
        assert "4 folds" in page(plan)

    def test_sample_that_takes_too_long_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("search.plan_samples.SAMPLE_S", 0.5)
        before = signal.getsignal(signal.SIGALRM)
        plan = make_plan(make_sweep(space={"epoch_s": [0.8, 0.01]}), tmp_path)
        assert [sample.is_given_up for sample in plan.samples].count(True) == 1
        shown = page(plan)
        assert "takes more than 0.5 s: given up" in shown and "> 0.50 s" in shown and "to more than" in shown
        assert plan.cost and plan.cost.work_s.low < 3, "the other sample was measured"
        assert signal.getsignal(signal.SIGALRM) == before

    def test_long_first_epoch_is_the_only_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("search.plan_samples.SAMPLE_S", 1.0)
        plan = make_plan(make_sweep(space={"batch_size": [8]}, fixed={"epoch_s": 0.6}), tmp_path)
        (sample,) = plan.samples
        assert sample.epoch_s and sample.epoch_s >= 0.6
        assert sample.startup_s is None and "start-up is part of it" in sample.problem

    def test_what_is_done_once_is_part_of_no_sample(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("search.plan_samples.SAMPLE_S", FROZEN_S / 2)
        for file in ("plan_samples", "plan_cost"):
            monkeypatch.setattr(f"search.{file}.NOTICEABLE_S", FROZEN_S / 2)
        plan = make_plan(make_sweep(trainer="tests.search.test_plan:Frozen"), tmp_path)
        assert not any(sample.problem for sample in plan.samples)
        assert all(sample.startup_s < FROZEN_S / 2 for sample in plan.samples if sample.startup_s is not None)
        assert plan.cost and FROZEN_S / 2 < plan.cost.once_s < 2 * FROZEN_S
        assert plan.cost.cache_bytes == 3_000_000
        assert "once per run up to 1." in page(plan) and "and 3.0 MB in the cache" in page(plan)
        again = make_plan(make_sweep(trainer="tests.search.test_plan:Frozen"), tmp_path)
        assert again.cost and not again.cost.once_s and again.cost.cache_bytes == 3_000_000
        assert "once per run" not in page(again)

    def test_start_up_includes_a_model_that_the_process_already_holds(self, tmp_path: Path) -> None:
        sweep = make_sweep(trainer="tests.search.test_plan:Compiled")
        run_sweep(sweep, tmp_path / "run", "local")
        assert Compiled.starts[-1] == (96, False), "all trials but the first have nothing to build"
        for _ in range(2):
            Compiled.starts.clear()
            samples = make_plan(sweep, tmp_path).samples
            assert [start for start in Compiled.starts if start[0] == 96] == 3 * [(96, True)]
            assert len(samples) == 3 and all(sample.startup_s is not None for sample in samples)

    def test_building_is_nothing_that_is_done_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("search.plan_samples.NOTICEABLE_S", 0.0)  # so that it is looked for in any case
        Compiled().forget()
        Compiled.starts.clear()
        make_plan(make_sweep(trainer="tests.search.test_plan:Compiled", space={"batch_size": [8]}), tmp_path)
        assert Compiled.starts == [(3, True), (3, True), (96, True)]

    def test_sample_that_fails_is_told_and_costs_nothing(self, tmp_path: Path) -> None:
        plan = make_plan(make_sweep(fixed={"mishap": "raises", "mishap_epoch": 1}), tmp_path)
        assert plan.cost is None and "ZeroDivisionError: the trainer has a fault" in page(plan)

    def test_trainer_without_epochs_trains_each_trial_once(self, tmp_path: Path) -> None:
        sweep = make_sweep(trainer="sklearn/knn", space={"n_neighbors": {"int": [1, 9]}}, epochs=9)
        ladder = make_plan(sweep, tmp_path).ladder
        assert ladder.epochs.high == 12 and ladder.reached == {1: 12}


class TestCost:
    def test_budget_that_ends_it_early(self, tmp_path: Path) -> None:
        plan = make_plan(make_sweep(fixed={"epoch_s": 0.02}, budget={"minutes": 0.002}), tmp_path)
        assert plan.cost and plan.cost.cut_off and 0.1 < plan.cost.cut_off < 1
        assert "budget.minutes ends it after about" in page(plan)

    def test_gpu_hours_are_a_range(self, tmp_path: Path) -> None:
        plan = make_plan(make_sweep(resources={"cpu": 1, "gpu": 0.5}), tmp_path)
        assert plan.cost and plan.cost.gpu_hours
        assert plan.cost.gpu_hours.central == pytest.approx(plan.cost.work_s.central / 7200)
        assert "GPU-hours" in page(plan)

    def test_wall_time_is_no_less_than_one_whole_trial(self, tmp_path: Path) -> None:
        sweep = make_sweep(search={"trials": 1, "suggester": "random"}, fixed={"epoch_s": 0.02})
        plan = make_plan(sweep, tmp_path)
        assert plan.cost and plan.cost.parallel == 1 and plan.cost.wall_s.low >= 9 * 0.02

    def test_what_workers_build_once_for_many_trials_is_counted_once_a_worker(self, tmp_path: Path) -> None:
        one_s_to_start = Sample({}, 9, 0.0, False, 0.0, 1.0, 1, 1, False, "")
        for trainer, starts in (("tests.search.test_plan:Compiled", 1), ("tests.tiny:Softmax", math.inf)):
            sweep = make_sweep(trainer=trainer, resources={"cpu": os.cpu_count()})
            plan = make_plan(sweep, tmp_path, measure=False)
            structures = _num_structures(sweep, [plan.draws.smallest, plan.draws.largest])
            folds = make_folds(*load_rows(sweep, tmp_path), sweep.epochs)
            cost = cost_of(sweep, folds, plan.ladder, [one_s_to_start], structures)
            assert (
                cost
                and structures == starts
                and cost.work_s.central == min(starts, plan.ladder.stretches.central)
            )

    def test_machine_without_room_for_a_trial(self, tmp_path: Path) -> None:
        plan = make_plan(make_sweep(resources={"cpu": 4096}, fixed={"epoch_s": 0.0}), tmp_path)
        assert any("asks for 4096 CPUs" in line for line in plan.warnings)


def test_plan_survives_json(tmp_path: Path) -> None:
    plan = make_plan(make_sweep(resources={"gpu": 1}, budget={"minutes": 9}), tmp_path)
    text = json.dumps(plan.to_dict(), allow_nan=False)
    assert TypeAdapter(Plan).validate_json(text) == plan


def test_faulty_data_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="few"):
        make_plan(make_sweep(dataset=rows_file(tmp_path, many=30, few=2)), tmp_path)


def test_trainer_that_can_train_nothing_is_told_as_such(tmp_path: Path) -> None:
    sweep = make_sweep(trainer="tests.search.test_plan:Helpless", space={"epochs": [2, 4]})
    with pytest.raises(RunError, match="Helpless cannot train here: there is no Java"):
        make_plan(sweep, tmp_path)


@pytest.mark.slow
def test_plan_of_a_real_net(tmp_path: Path) -> None:
    sweep = load_checked_sweep(CATALOG / "digits" / "cnn.yaml")
    plan = make_plan(sweep, tmp_path, draws=4)
    assert plan.draws.drawn == 4
    assert 1000 < plan.draws.smallest.weights < plan.draws.largest.weights
    assert len(plan.samples) == 3 and not any(sample.problem for sample in plan.samples)
    assert all(sample.checkpoint_bytes > 4 * sample.weights for sample in plan.samples)
    assert plan.cost and plan.cost.wall_s.low > 1
    shown = page(plan)
    for said in ("rule promote: of 40 trials", "weights; at most", "wall time about", "disk about"):
        assert said in shown


def test_trials_at_a_time_are_bounded_by_gpus_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(gpu: float) -> Plan:
        sweep = make_sweep(dataset=rows, epochs=3, resources={"gpu": gpu})
        return make_plan(sweep, tmp_path)

    rows = rows_file(tmp_path, a=40, b=40)
    monkeypatch.setattr("search.plan_cost.GPUS", tmp_path / "gpus")
    monkeypatch.setattr("search.plan.no_gpu", lambda: "it trains on the CPU")
    assert "a trial asks for 1 GPUs, this machine has 0: times are those of its CPUs" in planned(1).warnings
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr("search.plan_cost.CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    plans = [planned(gpu) for gpu in (1, 0.25, 0)]
    assert [plan.cost.parallel for plan in plans if plan.cost] == [1, 4, 12]
    assert ["it trains on the CPU" in plan.warnings for plan in plans] == [True, True, False]
    for quota, cpus in (
        ("max 100000", 16),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("3200000 100000", 16),
    ):
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
        assert machine() == (cpus, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = make_plan(make_sweep(dataset=rows, epochs=3, resources={"gpu": 1}), tmp_path, measure=False)
    assert "a trial asks for 1 GPUs, this machine has 0: it cannot run here" in hidden.warnings


class Wordless(Softmax):
    """Has no model and says nothing about it."""

    def check(self, *given: Any) -> int:
        raise Infeasible


def test_no_model_for_no_reason_is_no_model(tmp_path: Path) -> None:
    sweep = make_sweep(trainer="tests.search.test_plan:Wordless")
    with pytest.raises(SpaceError, match="no reason was given"):
        make_plan(sweep, tmp_path)
