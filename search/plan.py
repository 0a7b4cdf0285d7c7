"""What a sweep will meet, found out before anything is spent on it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from pydantic import ValidationError

from search.trial_loop import faults_of
from spaces.sweep import Sweep
from trainers.catalog import load_trainer
from trainers.contract import Fold, Infeasible


def dry_draws(sweep: Sweep, fold: Fold, num_draws: int) -> Iterator[str]:
    """Draw configurations and build their models: for each, why it has none, or an empty text if it has."""
    trainer = load_trainer(sweep.trainer)
    for draw in range(num_draws):
        params = sweep.space.sample(np.random.default_rng([sweep.search.seed, draw]))
        try:
            trainer.check(trainer.Settings(**sweep.fixed, **params), replace(fold, seed=draw))
        except ValidationError as error:
            yield faults_of(error)
        except Infeasible as error:
            yield str(error)
        else:
            yield ""
