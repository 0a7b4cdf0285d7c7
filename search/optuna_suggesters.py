"""TPE, CMA-ES and NSGA-II from Optuna behind our ask and tell; the only file that imports Optuna.

Optuna's own loop cannot be used: under it a trial that paused at a rung would be over, and what a sampler
draws would depend on how often it was asked before a crash.
"""

import math
import warnings
from typing import cast

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState, create_trial

from search.events import Ending, RunError
from spaces.params import Choice, Float, Int, Param, Space, Value

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _sampler(name: str, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                return TPESampler(seed=seed)
            case "cmaes":
                # Few trials reach the last epoch under ASHA, so the stopped ones must teach it too.
                return CmaEsSampler(seed=seed, warn_independent_sampling=False, consider_pruned_trials=True)
            case "nsga2":
                return NSGAIISampler(seed=seed, population_size=20)
    raise ValueError(f"suggester {name!r} is unknown")


class _Storage(InMemoryStorage):
    """Lets a trial learn on after it was told as pruned: a paused trial may be promoted."""

    def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None: ...


class OptunaSuggester:
    """Stopped and paused trials are told as pruned with all their intermediate values; infeasible and failed
    ones as pruned with none, which ranks them last."""

    def __init__(self, name: str, space: Space, seed: int) -> None:
        self._name = name
        self._space = space
        self._seed = seed
        self._storage = _Storage()
        self._study = optuna.create_study(storage=self._storage, direction="maximize")

    def suggest(self, number: int) -> dict[str, Value]:
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._study.sampler = _sampler(self._name, seed)
        trial = self._study.ask()
        chance = np.random.default_rng([self._seed, number])

        def draw(name: str, param: Param) -> Value:
            return _draw(trial, name, param) if self._is_known(param) else param.sample(chance)

        return self._space.fill(draw)

    def restore(self, number: int, params: dict[str, Value]) -> None:
        if self._name == "tpe":  # it keeps nothing beside the trials, so it need not be asked again
            distributions = {name: _distribution(self._space.params[name]) for name in params}
            self._study.add_trial(
                create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)
            )
        elif (again := self.suggest(number)) != params:
            raise RunError(
                f"suggester {self._name!r} proposes {again} for trial {number}, but the run has {params}: "
                f"it was started with another Optuna than {optuna.__version__}; install that one"
            )

    def take(self, number: int, params: dict[str, Value]) -> None:
        known = {name: value for name, value in params.items() if self._is_known(self._space.params[name])}
        self._study.enqueue_trial(known)
        self.suggest(number)  # what is in the queue comes out; NSGA-II breeds from trials of its own only

    def _is_known(self, param: Param) -> bool:
        """Whether the sampler is to choose its value: a Gaussian knows only numbers that are always there."""
        return self._name != "cmaes" or not (isinstance(param, Choice) or param.when)

    def report(self, number: int, epoch: int, value: float, seconds: float) -> None:
        worst = -math.inf  # CMA-ES would sort NaN anywhere
        self._storage.set_trial_intermediate_value(
            self._id(number), epoch, worst if math.isnan(value) else value
        )

    def rest(self, number: int) -> None:
        self._storage.set_trial_state_values(self._id(number), TrialState.PRUNED)

    def finish(self, number: int, ending: Ending, value: float) -> None:
        if ending == "complete" and not math.isnan(value):
            self._storage.set_trial_state_values(self._id(number), TrialState.COMPLETE, [value])
        else:
            self._storage.set_trial_state_values(self._id(number), TrialState.PRUNED)

    def retry(self, number: int) -> None:
        pass  # it stays pruned, as one that was paused: what it reports from now on counts

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number - 1)


def _distribution(param: Param) -> BaseDistribution:
    match param:
        case Float():
            return FloatDistribution(param.low, param.high, log=param.log)
        case Int():
            return IntDistribution(param.low, param.high, log=param.log)
        case Choice():
            return CategoricalDistribution(param.values)
    raise TypeError(f"{param!r} is no param")


def _draw(trial: Trial, name: str, param: Param) -> Value:
    match param:
        case Float():
            return trial.suggest_float(name, param.low, param.high, log=param.log)
        case Int():
            return trial.suggest_int(name, param.low, param.high, log=param.log)
        case Choice():
            return cast(Value, trial.suggest_categorical(name, param.values))
    raise TypeError(f"{param!r} is no param")
