"""Regression: a Gaussian process with a Matern covariance, its expected improvement, and a plane.

SciPy takes a third of a second to import: whoever needs this file imports it when it comes to that.

RW = Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006.
"""

import math
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]

BLOCK = 64
"""Rows whose part of a covariance is factored at once, and kept."""
STEPS = 20
"""L-BFGS steps of one fit; the next one starts where it ended."""


class Process:
    """What is known of the objective, larger is better, after the values ``y`` at the rows ``x``.

    ``theta`` holds the logarithms of one length scale a group of columns, and of the noise variance. At the
    rows ``believed`` the process's own mean is taken for a value, which leaves the mean as it is and the
    doubt smaller: the Kriging believer of Ginsbourger, Le Riche & Carraro, "Kriging Is Well-Suited to
    Parallelize Optimization", 2010.

    ``before`` is a process whose first rows may be the same, in the same order: what was calculated of them
    is not calculated again. With one thread of linear algebra that changes nothing, not even the last bits.
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        theta: Array,
        groups: NDArray[np.int64],
        believed: Array | None = None,
        before: "Process | None" = None,
    ) -> None:
        self._theta = theta
        self._scale = np.exp(theta[:-1])[groups]
        self._rows = (x if believed is None else np.vstack([x, believed])) / self._scale
        self._lower = self._factor(before._common_factor(self) if before else np.empty((0, 0)))
        n = len(y)
        # L^-1 y: its product with L^-1 k is the mean too, by one triangular system less than algorithm 2.1.
        self._whitened = solve_triangular(self._lower[:n, :n], y, lower=True, check_finite=False)

    def _common_factor(self, other: "Process") -> Array:
        """Of the whole blocks of leading rows that both have."""
        if not np.array_equal(self._theta, other._theta):
            return np.empty((0, 0))
        n = min(len(self._rows), len(other._rows))
        differs = (self._rows[:n] != other._rows[:n]).any(axis=1)
        n = (int(differs.argmax()) if differs.any() else n) // BLOCK * BLOCK
        return self._lower[:n, :n]

    def _factor(self, known: Array) -> Array:
        """The Cholesky factor of the covariance, block by block of rows; ``known`` is that of the first ones.

        Golub & Van Loan, "Matrix Computations", 4th edition, section 4.2.9. Always the same blocks, so that
        what is known changes no rounding.
        """
        n, start = len(self._rows), len(known)
        lower = np.zeros((n, n), order="F")
        lower[:start, :start] = known
        while start < n:
            block = slice(start, min(start + BLOCK, n))
            k = matern(_squared_distances(self._rows[: block.stop], self._rows[block]))
            across = solve_triangular(lower[:start, :start], k[:start], lower=True, check_finite=False)
            rest = k[start:] - across.T @ across
            rest[np.diag_indices(len(rest))] += math.exp(self._theta[-1])
            lower[block, :start] = across.T
            lower[block, block] = cholesky(rest, lower=True, check_finite=False)
            start = block.stop
        return lower

    def at(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation at each row of ``x``, without the noise (RW, algorithm 2.1)."""
        k = matern(_squared_distances(x / self._scale, self._rows)).T
        v = solve_triangular(self._lower, k, lower=True, overwrite_b=True, check_finite=False)
        mean = self._whitened @ v[: len(self._whitened)]
        return mean, np.sqrt(np.maximum(1 - np.einsum("ij,ij->j", v, v), 1e-12))


def fit(x: Array, y: Array, groups: NDArray[np.int64], start: Array | None = None) -> Array:
    """The ``theta`` of the highest posterior density, by L-BFGS from ``start`` or the middle of the prior."""

    squares = np.array(
        [_squared_distances(x[:, groups == g], x[:, groups == g]) for g in range(groups[-1] + 1)]
    )
    first = _prior(len(squares))[0] if start is None else start
    bounds = [(-4.0, 8.0)] * len(squares) + [(-9.0, 1.0)]
    found = minimize(
        misfit, first, (squares, y), "L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": STEPS}
    )
    return cast(Array, found.x)


def misfit(theta: Array, squares: Array, y: Array) -> tuple[float, Array]:
    """Minus the log posterior density of ``theta``, up to a constant, and its gradient.

    ``squares`` (groups, n, n) are squared distances within each group of columns. The marginal likelihood is
    RW, equation 2.30, its gradient 5.9; a covariance's derivative by the logarithm of a length scale l is
    (5/3)(1 + a) exp(-a) d^2 / l^2 with a = sqrt(5) r, from RW, equation 4.17.
    """

    inverse, noise = np.exp(-2 * theta[:-1]), math.exp(theta[-1])
    a = np.sqrt(5 * np.tensordot(inverse, squares, 1))
    decay = np.exp(-a)
    identity = np.eye(len(y))
    lower = cholesky((1 + a + a * a / 3) * decay + noise * identity, lower=True, check_finite=False)
    alpha = cho_solve((lower, True), y, check_finite=False)
    rise = np.outer(alpha, alpha) - cho_solve((lower, True), identity, check_finite=False)
    slope = rise * (5 / 3) * (1 + a) * decay
    likelihood = -0.5 * y @ alpha - np.log(np.diag(lower)).sum()
    gradient = 0.5 * np.append(inverse * np.tensordot(squares, slope, 2), noise * np.trace(rise))
    mean, variance = _prior(len(squares))
    off = theta - mean
    return float(0.5 * (off**2 / variance).sum() - likelihood), off / variance - gradient


def _prior(dims: int) -> tuple[Array, Array]:
    """Mean and variance of a normal density over ``theta``, with the mode that the log-normal one over
    exp(theta) has: the mean of the logarithm less its variance.

    Length scales grow with the root of the number of dimensions: Hvarfner, Hellsten & Nardi, "Vanilla
    Bayesian Optimization Performs Great in High Dimensions", ICML 2024. The noise has BoTorch's prior,
    log-normal (-4, 1). Our own is the narrow prior around 1 along the epochs, the last dimension: early on no
    value lies near the end, so that nothing but the prior says how far the early epochs tell of it.
    """
    mean = np.append(np.full(dims, math.sqrt(2) + 0.5 * math.log(dims) - 3.0), -5.0)
    variance = np.append(np.full(dims, 3.0), 1.0)
    mean[-2], variance[-2] = 0.0, 0.25
    return mean, variance


def matern(squared: Array) -> Array:
    """The Matern covariance with nu = 5/2 and variance 1 at a squared distance (RW, equation 4.17)."""
    a = np.sqrt(squared)
    a *= math.sqrt(5)
    k = a / 3  # in place from here on: this is where an ask spends its time
    k += 1
    k *= a
    k += 1
    np.negative(a, out=a)
    k *= np.exp(a, out=a)
    return k


def _squared_distances(one: Array, other: Array) -> Array:
    squared = one @ (-2 * other.T)
    squared += (one**2).sum(1)[:, None]
    squared += (other**2).sum(1)
    return np.maximum(squared, 0, out=squared)


def normal_scores(values: Array) -> Array:
    """The values that a normal sample of this size would have in this order, all NaN lowest and alike.

    Source: Blom, "Statistical Estimates and Transformed Beta-Variables", 1958: the quantiles at
    (rank - 3/8) / (n + 1/4).
    """

    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)  # NaN comes last, as one
    ranks = np.cumsum(counts) - (counts - 1) / 2
    is_nan = np.isnan(values)
    ranks = np.where(is_nan, (is_nan.sum() + 1) / 2, ranks[place] + is_nan.sum())
    return cast(Array, ndtri((ranks - 0.375) / (len(values) + 0.25)))


def ridge(x: Array, y: Array, penalty: float = 0.1) -> Array:
    """The slopes of the plane through the means of ``x`` and ``y`` with the least squared error, to which the
    square of each slope is added ``penalty`` times (Hoerl & Kennard, "Ridge Regression", Technometrics 1970).
    """
    x = x - x.mean(axis=0)
    return cast(Array, np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - y.mean())))


def expected_improvement(mean: Array, deviation: Array, incumbent: float) -> Array:
    """Expected max(0, f - incumbent) of f normal.

    Source: Jones, Schonlau & Welch, "Efficient Global Optimization", J. Global Optim. 13 (1998), equation 15,
    turned for a maximum.
    """

    z = (mean - incumbent) / deviation
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return cast(Array, deviation * (z * ndtr(z) + density))
