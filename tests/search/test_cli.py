"""The command as its user meets it: output, exit codes, and one clear line for every bad input."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search import load_run, load_sweep, run_sweep
from search.cli import main
from search.driver import load_checked_sweep
from search.events import Event, EventLog, RunFailed
from spaces.params import SpaceError
from tests.search.conftest import make_sweep
from tests.search.test_events import started

GOOD = """\
dataset: digits
trainer: keras/cnn
objective: macro_f1
epochs: 9
space:
  filters: [16, 32]
  optimizer: [adam, sgd]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small finished run, "tiny"."""
    folder = tmp_path_factory.mktemp("runs")
    run_sweep(make_sweep(), folder / "tiny", "local")
    return folder


@pytest.fixture
def bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Run a command that must be refused; gives the lines it printed to stderr."""

    def refused(*arguments: object) -> list[str]:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        shown = capsys.readouterr()
        assert not shown.out.startswith("Traceback") and "Traceback" not in shown.err
        lines = shown.err.splitlines()
        assert lines and all(line.startswith("rungwise: ") for line in lines)
        return [line.removeprefix("rungwise: ") for line in lines]

    return refused


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("trainer: keras/cnn", "trainer: keras/cn", 2, "did you mean 'keras/cnn'"),
        ("dataset: digits", "dataset: digit", 1, "did you mean 'digits'"),
        ("objective: macro_f1", "objective: macro-f1", 3, "did you mean 'macro_f1'"),
        ("  filters: [16, 32]", "  filter: [16, 32]", 6, "did you mean 'filters'"),
        ("  filters: [16, 32]", "  filters: {int: [32, 16]}", 6, "32"),
        ("  filters: [16, 32]", "  filters: []", 6, "filters"),
        ("  filters: [16, 32]", "  learning_rate: {float: [0.0, 0.1], log: true}", 6, "must start above 0"),
        ("  filters: [16, 32]", "  filters: {int: [1, 9], when: {optimiser: sgd}}", 6, "optimiser"),
        ("  filters: [16, 32]", "  filters: {int: [1, 9], when: {filters: 2}}", 6, "circle"),
        ("epochs: 9", "epochs: nine", 4, "nine"),
        ("epochs: 9", "epochs: 9\nepoch: 3", 5, "did you mean 'epochs'"),
        ("  optimizer: [adam, sgd]", "  optimizer: [adam, sgb]", 7, "sgb"),
        ("space:", "search: {suggester: tpee}\nspace:", 5, "tpe"),
    ],
)
def test_fault_of_a_sweep_is_one_line_with_file_and_line(
    bad: Callable[..., list[str]], tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(GOOD.replace(old, new))
    for command in ("check", "run"):
        (fault,) = bad(command, file)
        assert fault.startswith(f"{file}:{line}: ")
        assert says in fault


def test_all_faults_come_at_once(bad: Callable[..., list[str]], tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "dataset: digit\ntrainer: keras/cnn\nobjective: f1\nepochs: 0\n"
        "space:\n  filters: {int: [3, 1]}\n  dept: [1]\n"
    )
    faults = bad("run", file)
    assert [int(fault.split(":")[1]) for fault in faults] == [1, 3, 4, 6, 7]


def test_grid_over_a_continuous_param(bad: Callable[..., list[str]], tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(GOOD + "  learning_rate: {float: [0.1, 0.2]}\nsearch: {suggester: grid}\n")
    (fault,) = bad("check", file)
    assert f"{file}:8: space.learning_rate" in fault and "grid" in fault


@pytest.mark.parametrize(
    ("text", "says"),
    [("space: [", "line"), ("a: 1\n\tb: 2\n", "tab"), ("", "empty"), ("- 1\n", "mapping"), ("\0", "binary")],
)
def test_file_that_is_no_sweep(bad: Callable[..., list[str]], tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    assert any(str(file) in fault for fault in bad("run", file))


def test_missing_file_and_folder(bad: Callable[..., list[str]], tmp_path: Path) -> None:
    assert bad("run", tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml does not exist"]
    assert "is a folder" in bad("run", tmp_path)[0]


@pytest.mark.parametrize("override", ["epochs", "epochs=", "=3", "a.b.c=1", "epochs=nine", "serch.trials=3"])
def test_malformed_override(bad: Callable[..., list[str]], tmp_path: Path, override: str) -> None:
    (tmp_path / "sweep.yaml").write_text(GOOD)
    assert "--set" in bad("check", tmp_path / "sweep.yaml", "--set", override)[0]


def data_of(folder: Path, rows: Any, labels: Any) -> Path:
    np.save(folder / "x.npy", np.asarray(rows, np.float32))
    np.save(folder / "y.npy", np.asarray(labels))
    data = {"kind": "npy", "path": str(folder / "x.npy"), "labels": str(folder / "y.npy")}
    (folder / "sweep.yaml").write_text(make_sweep(dataset=data).to_yaml())
    return folder / "sweep.yaml"


@pytest.mark.parametrize(
    ("rows", "labels", "says"),
    [
        (np.ones((20, 2)), [0, 1] * 8, ["20", "16"]),
        (np.ones((20, 2)) * [[np.nan, 1]], [0, 1] * 10, ["NaN"]),
        (np.ones((20, 2)), [0] * 19 + [7], ["class 7", "one row"]),
        (np.ones((20, 2)), [0] * 20, ["class"]),
    ],
    ids=["lengths differ", "NaN", "class with a single row", "one class"],
)
def test_data_that_nothing_can_be_trained_on(
    bad: Callable[..., list[str]], tmp_path: Path, rows: Any, labels: Any, says: list[str]
) -> None:
    file = data_of(tmp_path, rows, labels)
    for command in (["check", file], ["run", file, "--runs", tmp_path, "--name", "x", "--runner", "local"]):
        (fault,) = bad(*command)
        assert all(word in fault for word in says)
    assert not (tmp_path / "x").exists(), "nothing was begun"


@pytest.mark.ray
def test_ray_that_starts_while_the_data_are_read_ends_where_they_are_refused(
    bad: Callable[..., list[str]], tmp_path: Path
) -> None:
    (fault,) = bad("run", data_of(tmp_path, np.ones((20, 2)), [0] * 20), "--runs", tmp_path, "--name", "x")
    assert "class" in fault
    import ray

    assert not ray.is_initialized()
    assert not (tmp_path / "x").exists(), "nothing was begun"


def test_run_name_taken(bad: Callable[..., list[str]], runs: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(make_sweep().to_yaml())
    before = (runs / "tiny" / "events.jsonl").read_bytes()
    (fault,) = bad("run", tmp_path / "sweep.yaml", "--runs", runs, "--name", "tiny")
    assert "already exists" in fault and "rungwise resume" in fault
    assert (runs / "tiny" / "events.jsonl").read_bytes() == before


def test_folder_of_something_else_is_no_run_to_go_on_with(
    bad: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "sweep.yaml").write_text(make_sweep().to_yaml())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "idea.txt").touch()
    (fault,) = bad("run", tmp_path / "sweep.yaml", "--runs", tmp_path, "--name", "notes")
    assert "holds something else" in fault and "resume" not in fault


def test_path_is_the_run_that_lies_there(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "runs" / "runs" / "tiny", started())
    shutil.copytree(runs / "tiny", tmp_path / "runs" / "tiny")
    assert load_run(Path("runs/tiny")).run.trials
    assert main(["resume", "tiny", "--trials", "13", "--runner", "local"]) == 0
    assert len(load_run("tiny").run.trials) == 13
    assert "macro" in capsys.readouterr().out, "its leaderboard"


def write_log(folder: Path, event: Event) -> None:
    folder.mkdir(parents=True)
    with EventLog(folder / "events.jsonl") as log:
        log.append(event)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-x", "a b", "x" * 65])
def test_run_name_that_is_none(bad: Callable[..., list[str]], tmp_path: Path, name: str) -> None:
    (tmp_path / "sweep.yaml").write_text(make_sweep().to_yaml())
    (fault,) = bad("run", tmp_path / "sweep.yaml", "--runs", tmp_path, f"--name={name}")
    assert "is no name for a run" in fault


@pytest.mark.parametrize("command", ["resume", "status", "best"])
def test_run_that_is_none(bad: Callable[..., list[str]], runs: Path, tmp_path: Path, command: str) -> None:
    assert "did you mean 'tiny'" in bad(command, "tine", "--runs", runs)[0]
    assert f"{tmp_path} is no run" in bad(command, tmp_path, "--runs", runs)[0]
    assert "holds no runs yet" in bad(command, "tiny", "--runs", tmp_path / "nowhere")[0]


@pytest.mark.parametrize("command", ["resume", "status", "best"])
def test_run_of_a_newer_version(bad: Callable[..., list[str]], tmp_path: Path, command: str) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    newer = started().model_dump_json().replace('"format":1', '"format":99')
    (folder / "events.jsonl").write_text(newer + "\n")
    (fault,) = bad(command, folder)
    assert "newer Rungwise" in fault and "upgrade" in fault


def test_run_that_was_killed_before_it_began(bad: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    for command in ("resume", "status", "best"):
        assert "before it began" in bad(command, tmp_path)[0]


def test_status_and_best_in_words_and_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "tiny", "--runs", str(runs), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["run"] == "tiny" and status["state"] == "complete"
    assert status["reason"] == "all trials are done"
    assert set(status["trials"]) >= {"complete", "stopped", "failed", "infeasible", "running"}
    assert sum(status["trials"].values()) == 12 and status["trials"]["running"] == 0
    assert main(["best", "tiny", "--runs", str(runs), "--top", "3", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)
    assert best[0] == status["best"] and len(best) == 3
    assert set(best[0]) == {"trial", "epoch", "params", "objective", "metrics"}
    assert best[0]["objective"] == {"name": "macro_f1", "value": best[0]["metrics"]["macro_f1"]}
    values = [trial["objective"]["value"] for trial in best]
    assert values == sorted(values, reverse=True)
    assert main(["best", "tiny", "--runs", str(runs), "--top", "3"]) == 0
    table = capsys.readouterr().out
    for value in values:
        assert f"{value:.4f}" in table
    assert main(["status", "tiny", "--runs", str(runs)]) == 0
    assert f"trial {best[0]['trial']}" in capsys.readouterr().out


def test_status_counts_what_the_log_says(runs: Path) -> None:
    results = load_run(runs / "tiny")
    assert results.status()["epochs"] == sum(trial.epoch for trial in results.run.trials.values())


def test_frame_and_curves(runs: Path) -> None:
    results = load_run("tiny", runs)
    frame = results.frame()
    assert len(frame) == 12 and {"param.learning_rate", "macro_f1", "status", "best_epoch"} <= {
        *frame.columns
    }
    best = results.best()[0]
    assert frame.macro_f1.max() == best.best_value
    curves = results.curves(best.number)
    assert list(curves.epoch) == list(range(1, best.epoch + 1))
    assert curves.macro_f1.max() == best.best_value and "train_loss" in curves
    assert set(results.curves([1, 2]).trial) == {1, 2}
    with pytest.raises(KeyError, match="no trial 99"):
        results.curves(99)


def test_runs_folder_from_the_environment(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNGWISE_RUNS", str(runs))
    assert main(["status", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "tiny"


def test_check_draws_the_space_through_the_trainer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(make_sweep(space={"mishap": ["none", "infeasible"]}).to_yaml())
    assert main(["check", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "rows: 96 to train, 24 to validate, 30 to test" in shown
    assert "x mishap: this configuration has no model" in shown
    assert main(["check", str(file), "--set", "search.first=[{}, {mishap: infeasible}]"]) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("first:")]
    assert told == "first: search.first.1 has no model: mishap: this configuration has no model"


def test_check_refuses_a_space_without_a_single_model(bad: Callable[..., list[str]], tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(make_sweep(fixed={"mishap": "infeasible"}).to_yaml())
    assert "none of 20 draws has a model" in bad("check", file)[0]


def test_run_whose_every_trial_fails_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(make_sweep(fixed={"mishap": "raises", "mishap_epoch": 1}).to_yaml())
    assert main(["run", str(file), "--runs", str(tmp_path), "--name", "x", "--runner", "local"]) == 1
    assert "first 5 trials all failed" in capsys.readouterr().err
    assert load_run(tmp_path / "x").state == "failed"


def test_run_of_few_trials_that_all_fail_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(make_sweep(fixed={"mishap": "raises", "mishap_epoch": 1}).to_yaml())
    run = ["run", str(file), "--runs", str(tmp_path), "--name", "x", "--runner", "local", "--trials", "2"]
    assert main(run) == 1
    shown = capsys.readouterr().out.splitlines()
    assert "no trial has a result: 2 failed" in shown
    why = "failed: ZeroDivisionError: the trainer has a fault"
    assert [line for line in shown if why in line] == [f"trial 1 {why}", f"trial 2 {why}"]
    assert any(line.startswith("  rungwise resume") and "--retry-failed" in line for line in shown)


def test_commands_to_go_on_with_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "my runs"
    (tmp_path / "sweep.yaml").write_text(make_sweep().to_yaml())
    run = ["run", str(tmp_path / "sweep.yaml"), "--runs", str(runs), "--name", "x", "--runner", "local"]
    assert main([*run, "--trials", "2"]) == 0
    next_ones = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  rungwise")]
    paths = [path for line in next_ones for path in shlex.split(line, comments=True) if "my runs" in path]
    assert paths == [str(runs / "x"), str(runs / "x"), str(runs)]


def test_python_api_runs_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(make_sweep().to_yaml())
    sweep = load_sweep(tmp_path / "sweep.yaml", ["search.trials=2"])
    run = run_sweep(sweep, tmp_path / "x", "local")
    assert len(run.trials) == 2 and run.best
    with pytest.raises(RunFailed):
        run_sweep(make_sweep(fixed={"mishap": "raises", "mishap_epoch": 1}), tmp_path / "y", "local")


def test_python_minus_m_is_the_same_command(runs: Path) -> None:
    command = [sys.executable, "-m", "search", "status", "tiny", "--runs", str(runs), "--json"]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["run"] == "tiny"


def test_run_shows_progress_its_leaderboard_and_what_to_do_next(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(make_sweep().to_yaml())
    command = [sys.executable, "-m", "search", "run", str(tmp_path / "sweep.yaml"), "--runner", "local"]
    ended = subprocess.run(
        [*command, "--name", "shown", "--runs", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("trials 12/12: ") and "0 running" in last and "0 failed" in last
    assert "best macro_f1" in last and "rung 1: 12" in last and "left" not in last
    best = load_run(tmp_path / "shown").best()[0]
    assert f"{best.best_value:.4f}" in ended.stdout and "worst" in ended.stdout
    for command_of_the_next in ("rungwise best", "rungwise resume", "rungwise dashboard"):
        assert f"{command_of_the_next} " in ended.stdout


def test_nobody_need_read_what_is_printed(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(make_sweep().to_yaml())

    def unread(stream: str, *command: object) -> int:
        """The exit code of a command one of whose streams nobody reads."""
        reader, writer = os.pipe()
        os.close(reader)
        streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: writer}
        arguments = [sys.executable, "-m", "search", *map(str, command)]
        ended = subprocess.run(arguments, cwd=Path(__file__).parents[2], **streams)
        os.close(writer)
        return ended.returncode

    where = ("--runs", tmp_path, "--name", "x", "--runner", "local")
    assert unread("stderr", "run", tmp_path / "sweep.yaml", *where) == 0
    assert load_run(tmp_path / "x").state == "complete"
    for command in ("best", "status"):
        assert unread("stdout", command, runs / "tiny") == 0


def test_plan_in_words_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Path(__file__).parents[2] / "spaces" / "catalog" / "digits" / "knn.yaml"
    assert main(["plan", str(sweep), "--no-measure", "--runs", str(tmp_path)]) == 0
    assert "1,150" in capsys.readouterr().out
    assert main(["plan", str(sweep), "--no-measure", "--json", "--runs", str(tmp_path)]) == 0
    assert sum(json.loads(capsys.readouterr().out)["data"]["counts"]["train"]) == 1150


def test_exported_model_predicts_files(
    runs: Path, tmp_path: Path, bad: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    model, rows = tmp_path / "model", tmp_path / "rows.npy"
    assert main(["export", "tiny", "--runs", str(runs), "--to", str(model)]) == 0
    assert f"rungwise predict {model} PATH... --trust" in capsys.readouterr().out
    np.save(rows, np.zeros((3, 4), np.float32))
    (line,) = bad("predict", model, rows)
    assert "--trust" in line, "its trainer is not one of ours"
    assert main(["predict", str(model), str(rows), "--trust", "--output", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("name,predicted,probability,known") and len(lines) == 4
    assert main(["predict", str(model), str(rows), "--trust", "--output", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    (line,) = bad("export", "tiny", "--runs", runs, "--to", model)
    assert str(model) in line, "it is taken"
    (line,) = bad("export", "tiny", 99, "--runs", runs, "--to", tmp_path / "other")
    assert "99" in line


def test_space_of_a_hypermodel_that_is_not_there(bad: Callable[..., list[str]]) -> None:
    (line,) = bad("space", "no_such_module:Net")
    assert "no_such_module" in line


def test_runs_are_named_for_the_sweep_file(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "tiny.as reported.yaml").write_text(make_sweep(search={"trials": 1}).to_yaml())
    assert (
        main(["run", str(folder / "tiny.as reported.yaml"), "--runner", "local", "--runs", str(tmp_path)])
        == 0
    )
    assert (tmp_path / "faces-tiny.as-reported" / "events.jsonl").is_file()


def test_file_that_may_not_be_written_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "runs/pets/lock")

    monkeypatch.setattr(
        "search.cli.load_run", refuse
    )  # root, who runs tests in places, may read and write all
    assert main(["status", "pets"]) == 2
    assert capsys.readouterr().err == "rungwise: [Errno 13] Permission denied: 'runs/pets/lock'\n"


def test_faults_of_a_data_sets_options_have_their_own_lines(tmp_path: Path) -> None:
    text = make_sweep().to_yaml()
    rest = text[text.index("trainer:") :]
    head = "dataset:\n  kind: csv\n  path: nowhere.csv\n  label: y\n  grup: person\n"
    (tmp_path / "a.yaml").write_text(head + rest)
    with pytest.raises(SpaceError) as error:
        load_checked_sweep(tmp_path / "a.yaml", ["dataset.size=big"])
    first, second, third = sorted(str(error.value).splitlines())
    assert first.startswith("--set dataset.size") and "'size'" in first
    assert f"{tmp_path / 'a.yaml'}:3: dataset.path: " in second and "not found" in second
    assert f"{tmp_path / 'a.yaml'}:5: dataset.grup: " in third and "did you mean 'group'" in third
