"""Vectors like those that a face generator starts from, labelled `glasses`: the data of report A, made up.

    python benchmarks/latent_vectors.py 4500 latent_vectors.csv

Writes columns V1 to V512, drawn from a standard normal, and the label. The labels come from one fixed random
network with a hidden layer, about three of five being 1 as in the report; 2 % of them are turned over. The
same number of rows always gives the same file. What can be learned from it is not what the report's vectors
held: compare ways of training on it with one another, never with the report's own accuracy.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HIDDEN = 8
_NOISE = 0.02
_SHARE_OF_GLASSES = 0.62  # 796 of the 1,285 test rows of the report
_SEED = 512


def latent_vectors(rows: int, columns: int = 512) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vectors (rows, columns) and their labels (rows,), 1 where there are glasses."""
    rng = np.random.default_rng([_SEED, columns])
    hidden, out = rng.standard_normal((columns, _HIDDEN)) / np.sqrt(columns), rng.standard_normal(_HIDDEN)

    def signal(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tanh(2 * x @ hidden) @ out

    threshold = np.quantile(signal(rng.standard_normal((20_000, columns))), 1 - _SHARE_OF_GLASSES)
    x = rng.standard_normal((rows, columns))
    is_turned_over = rng.random(rows) < _NOISE
    return x, ((signal(x) > threshold) != is_turned_over).astype(np.int64)


def write_latent_vectors(path: Path, rows: int, columns: int = 512) -> None:
    """Write them as CSV with the report's column names."""
    x, y = latent_vectors(rows, columns)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"V{column}" for column in range(1, columns + 1)), "glasses"])
        for vector, label in zip(x, y, strict=True):
            writer.writerow([*(f"{value:.6g}" for value in vector), label])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=int, help="how many vectors (the report: 4500)")
    parser.add_argument("path", type=Path, help="the CSV file to write")
    options = parser.parse_args()
    write_latent_vectors(options.path, options.rows)


if __name__ == "__main__":
    main()
