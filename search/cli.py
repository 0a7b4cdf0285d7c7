"""The command ``rungwise``: check, plan, run, resume, status, best, dashboard, export, predict, space.

Exit codes: 0 done, 1 the run failed, 2 bad input, 130 and 143 interrupted by SIGINT and SIGTERM, with
everything durable.
"""

import argparse
import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from search.driver import Interrupted, load_checked_sweep, load_rows, resume_run, run_sweep
from search.events import ALL_DONE, RunError, RunFailed, Trial
from search.export import FORMATS, export_trial
from search.exported import is_ours, read_about
from search.folder import RunFolder, default_runs, find_run
from search.picture_grid import picture_grid
from search.plan import make_plan
from search.plan_page import plan_page
from search.plan_samples import dry_draws, first_faults
from search.predict import predict
from search.progress import console, leaderboard, short, watched
from search.results import Results, load_run
from spaces.params import Fault, SpaceError
from spaces.sweep import trainer_name
from trainers.catalog import space_yaml
from trainers.contract import DataError, Fold
from trainers.folds import make_folds

DONE, FAILED, BAD_INPUT = 0, 1, 2
CHECKED_DRAWS = 20
SHOWN_REASONS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; bad input and failed runs become clear lines on stderr and an exit code."""
    options = _parser().parse_args(arguments)
    sys.path.insert(0, os.getcwd())  # trainers of the user's own are found where they work, as with python -m
    try:
        code: int = options.command(options)
        sys.stdout.flush()  # here, where it is known what to do if nobody reads
        return code
    except RunFailed as error:
        return _complain(error, FAILED)
    except (SpaceError, DataError, RunError) as error:
        return _complain(error, BAD_INPUT)
    except Interrupted as interrupted:
        runs = f" --runs {shlex.quote(str(options.runs))}" if options.runs else ""
        go_on = f"rungwise resume {shlex.quote(options.run)}{runs}"
        print(f"interrupted; everything reported is safe. Go on: {go_on}", file=sys.stderr)
        return 128 + interrupted.signum
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `rungwise best | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:  # a file that may not be read or written, say
        return _complain(error, BAD_INPUT)


def _complain(error: Exception, code: int) -> int:
    for line in (str(error) or type(error).__name__).splitlines():
        print(f"rungwise: {line}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rungwise", description="Hyperparameter search for classification.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        return added

    run = command("run", _run, "run a sweep to its end")
    run.add_argument("sweep", metavar="SWEEP.yaml", type=Path)
    run.add_argument("--name", help="name of the run (default: the file's folder and name)")
    _add_driving(run)

    resume = command("resume", _resume, "go on with an interrupted run, or add trials to a finished one")
    resume.add_argument("run", metavar="RUN", help="a name under the runs folder, or a path")
    resume.add_argument(
        "--as-started", action="store_true", help="go on although the sweep file has changed since"
    )
    resume.add_argument(
        "--retry-failed",
        action="store_true",
        help="go on with failed trials too, from their last checkpoints",
    )
    _add_driving(resume)

    status = command("status", _status, "how a run stands; works while it is going on")
    best = command("best", _best, "the best configurations of a run")
    best.add_argument("--top", type=_count, default=10, help="how many (default 10)")
    for reader in (status, best):
        reader.add_argument("run", metavar="RUN", help="a name under the runs folder, or a path")
        reader.add_argument("--json", action="store_true", help="for programs")
        _add_runs(reader)

    check = command(
        "check", _check, "validate a sweep without training: its file, its data, draws of its space"
    )
    check.add_argument("sweep", metavar="SWEEP.yaml", type=Path)
    _add_runs(check)
    _add_sweep_options(check)

    plan = command("plan", _plan, "what a sweep will cost and whether its data can tell trials apart")
    plan.add_argument("sweep", metavar="SWEEP.yaml", type=Path)
    plan.add_argument("--no-measure", dest="measure", action="store_false", help="train and time nothing")
    plan.add_argument("--json", action="store_true", help="for programs")
    _add_runs(plan)
    _add_sweep_options(plan)

    export = command("export", _export, "write a trial's model into a folder of its own, with a model card")
    export.add_argument("run", metavar="RUN", help="a name under the runs folder, or a path")
    export.add_argument("trial", metavar="TRIAL", type=_count, nargs="?", help="default: the best one")
    export.add_argument(
        "--to", metavar="DIR", type=Path, required=True, help="a folder that is not there yet"
    )
    export.add_argument(
        "--format",
        action="append",
        choices=FORMATS,
        help="besides what `rungwise predict` reads; more than once for several (default for Keras: keras)",
    )
    export.add_argument(
        "--refit",
        action="store_true",
        help="train once more, on training and validation rows together (as after folds)",
    )
    _add_runs(export)

    predict = command("predict", _predict, "ask an exported model about images, .npy or .csv files")
    predict.add_argument("model", metavar="DIR", type=Path, help="what `rungwise export` wrote")
    predict.add_argument("paths", metavar="PATH", type=Path, nargs="+", help="files, or folders of images")
    predict.add_argument(
        "--output", choices=("table", "csv", "json"), default="table", help="how to print (default: table)"
    )
    predict.add_argument("--grid", metavar="OUT.png", type=Path, help="also draw them; wrong ones red")
    predict.add_argument(
        "--trust", action="store_true", help="let a model of a trainer of your own run that trainer's code"
    )

    space = command("space", _space, "what a trainer lets vary, as YAML for a sweep")
    space.add_argument(
        "trainer",
        metavar="TRAINER",
        help="as in a sweep (keras/cnn), a classifier (sklearn.svm.SVC), or module:name of a hypermodel",
    )

    dashboard = command("dashboard", _dashboard, "look at runs in a browser; listens on 127.0.0.1 only")
    dashboard.add_argument("--port", type=_count, default=8501)
    _add_runs(dashboard)
    return parser


def _add_driving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runner", choices=("ray", "local"), default="ray", help="where trials run (default: ray)"
    )
    _add_runs(parser)
    _add_sweep_options(parser)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", type=Path, metavar="DIR", help="the runs folder (default: $RUNGWISE_RUNS, or runs)"
    )


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=_count, metavar="N", help="short for --set search.trials=N")
    parser.add_argument("--seed", type=int, metavar="N", help="short for --set search.seed=N")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the sweep, e.g. --set epochs=9",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _overrides(options: argparse.Namespace) -> list[str]:
    short = {"search.trials": options.trials, "search.seed": options.seed}
    return [*options.set, *(f"{key}={value}" for key, value in short.items() if value is not None)]


def _run(options: argparse.Namespace) -> int:
    overrides = _overrides(options)
    sweep = load_checked_sweep(options.sweep, overrides)
    options.run = _checked_name(_default_name(options.sweep) if options.name is None else options.name)
    folder = RunFolder((options.runs or default_runs()) / options.run)
    trainer = trainer_name(sweep.trainer)
    print(f"run {options.run}: up to {sweep.search.trials} trials of {trainer}, see {folder.path}")
    run_sweep(sweep, folder, options.runner, options.sweep.absolute(), overrides, watched)
    return _conclude(folder.path)


def _default_name(sweep: Path) -> str:
    """The sweep's file and its folder, such as digits-cnn: by these the catalog tells its sweeps apart."""
    path = sweep.absolute()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{path.parent.name}-{path.stem}").lstrip(".-")[:64]


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name):
        raise RunError(
            f"--name {name!r} is no name for a run: use 1 to 64 letters, digits, '.', '_' and '-', "
            "not starting with '.' or '-'; give a folder with --runs"
        )
    return name


def _resume(options: argparse.Namespace) -> int:
    folder = find_run(options.run, options.runs)
    resume_run(
        folder.path,
        _overrides(options),
        options.runner,
        as_started=options.as_started,
        retry_failed=options.retry_failed,
        watch=watched,
    )
    return _conclude(folder.path)


def _conclude(path: Path) -> int:
    """Print what came out; a run without a single result has failed."""
    results, run = load_run(path), shlex.quote(str(path))
    print()
    has_result = results.run.best is not None
    if has_result:
        console().print(leaderboard(results, top=5))
    else:
        print(f"no trial has a result: {_counts(results)}")
        for trial in islice((trial for trial in results.run.trials.values() if trial.reason), SHOWN_REASONS):
            print(_why_it_ended(trial))
    best = [(f"rungwise best {run} --top 20", "the best configurations")] if has_result else []
    failed = results.counts()["failed"]
    retry = [(f"rungwise resume {run} --retry-failed", f"the {failed} that failed, once that is mended")]
    next_commands = [
        *best,
        *((f"rungwise resume {run} {change}", purpose) for change, purpose in _ways_on(results)),
        *(retry if failed and results.reason == ALL_DONE else []),
        (f"rungwise dashboard --runs {shlex.quote(str(path.parent))}", "curves and classes in a browser"),
    ]
    width = max(len(command) for command, _ in next_commands)
    print("\nNext:")
    for command, purpose in next_commands:
        print(f"  {command:{width}}  # {purpose}")
    return DONE if has_result else FAILED


def _counts(results: Results) -> str:
    return ", ".join(f"{count} {name}" for name, count in results.counts().items() if count) or "none"


def _why_it_ended(trial: Trial) -> str:
    return f"trial {trial.number} {trial.status}: {trial.reason.splitlines()[0]}"


def _ways_on(results: Results) -> Iterator[tuple[str, str]]:
    """What a resume has to change so that the search goes on, and what for; nothing after a grid."""
    search, best = results.run.sweep["search"], results.run.best
    minutes, target = (results.run.sweep["budget"][name] for name in ("minutes", "target"))
    if results.reason == ALL_DONE:
        if search["suggester"] != "grid":
            yield f"--trials {2 * search['trials']}", "more trials"
    elif best and target is not None and not results.run.is_better(target, best.best_value):
        yield "--set budget.target=null", "beyond the target"
    elif minutes is not None:
        yield f"--set budget.minutes={2 * minutes:g}", "for as long again"


def _status(options: argparse.Namespace) -> int:
    results = load_run(options.run, options.runs)
    status = results.status()
    if options.json:
        print(json.dumps(status))
        return DONE
    why = f": {results.reason}" if results.reason else ""
    print(f"run {status['run']}: {status['state']}{why}")
    print(f"trials: {_counts(results)}\nepochs: {status['epochs']}")
    if best := status["best"]:
        params = ", ".join(f"{name}={short(value)}" for name, value in best["params"].items())
        objective = f"{best['objective']['name']} {best['objective']['value']:.4f}"
        print(f"best: trial {best['trial']} at epoch {best['epoch']}: {objective}\n      {params}")
    for trial in results.run.trials.values():
        if trial.status == "failed":
            print(_why_it_ended(trial))
    return DONE


def _best(options: argparse.Namespace) -> int:
    results = load_run(options.run, options.runs)
    if options.json:
        print(json.dumps([results.summary(trial) for trial in results.best(options.top)]))
        return DONE
    if not results.run.best:
        print(f"run {results.folder.name} has no result yet")
        return DONE
    console().print(leaderboard(results, options.top))
    return DONE


def _check(options: argparse.Namespace) -> int:
    sweep = load_checked_sweep(options.sweep, _overrides(options))
    dataset, splits = load_rows(sweep, options.runs or default_runs())
    folds = make_folds(dataset, splits, sweep.epochs)
    print(f"data: {dataset.source}")
    for note in dataset.notes:
        print(f"      {note}")
    print(_rows_line(folds, len(splits.test)))
    size = sweep.space.size
    print(f"space: {len(sweep.space.params)} params, {f'{size} configurations' if size else 'continuous'}")
    reasons = Counter(dry_draws(sweep, folds[0], CHECKED_DRAWS))
    feasible = reasons.pop("", 0)
    print(f"draws: {feasible} of {CHECKED_DRAWS} are feasible")
    for reason, count in reasons.most_common():
        print(f"  {count} x {reason}")
    for number, reason in first_faults(sweep, folds[0]):
        print(f"first: search.first.{number} has no model: {reason}")
    if not feasible:
        raise SpaceError(Fault(("space",), f"none of {CHECKED_DRAWS} draws has a model; narrow it"))
    return DONE


def _plan(options: argparse.Namespace) -> int:
    sweep = load_checked_sweep(options.sweep, _overrides(options))
    plan = make_plan(sweep, options.runs or default_runs(), options.measure)
    if options.json:
        print(json.dumps(plan.to_dict()))
    else:
        console().print(plan_page(plan))
    return DONE


def _export(options: argparse.Namespace) -> int:
    results = load_run(options.run, options.runs)
    folder = export_trial(results, options.trial, options.to, options.format, options.refit)
    print(f"exported to {folder}; what it is and how good: {folder / 'README.md'}")
    trust = "" if is_ours(read_about(folder).trainer) else " --trust"
    print(f"\nNext:\n  rungwise predict {shlex.quote(str(folder))} PATH...{trust}  # ask it about files")
    return DONE


def _predict(options: argparse.Namespace) -> int:
    predictions = predict(options.model, options.paths, options.trust, grid=bool(options.grid))
    match options.output:
        case "csv":
            print(predictions.csv(), end="")
        case "json":
            print(predictions.json())
        case _:
            console().print(predictions.table())
    if options.grid:
        picture_grid(predictions, options.grid)
        print(f"drew {options.grid}", file=sys.stderr)
    return DONE


def _space(options: argparse.Namespace) -> int:
    print(space_yaml(options.trainer), end="")
    return DONE


def _rows_line(folds: Sequence[Fold], num_test: int) -> str:
    first = folds[0]
    times = f", {len(folds)} times" if len(folds) > 1 else ""
    return f"rows: {len(first.train)} to train, {len(first.valid)} to validate{times}, {num_test} to test"


def _dashboard(options: argparse.Namespace) -> int:
    """Hand this process over to Streamlit."""
    runs = (options.runs or default_runs()).absolute()
    app = Path(__file__).parent.parent / "dashboard" / "app.py"
    os.execv(
        sys.executable,
        [
            *(sys.executable, "-m", "streamlit", "run", str(app)),
            *("--server.address", "127.0.0.1"),
            *("--server.port", str(options.port)),
            *("--server.headless", "true"),
            *("--server.enableXsrfProtection", "true"),
            *("--browser.gatherUsageStats", "false"),
            *("--server.fileWatcherType", "none"),
            *("--client.showErrorDetails", "none"),
            *("--client.toolbarMode", "minimal"),
            *("--", "--runs", str(runs)),
        ],
    )
