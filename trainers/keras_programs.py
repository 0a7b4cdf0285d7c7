"""Compiled models that outlive their trial: the next one of the same structure starts without compiling.

Compiling a small model takes longer than an epoch of it. Whatever changes no graph (weights, the optimizer's
state, rates of every kind, widths on TensorFlow) is therefore held in variables, and a program that one trial
gives back becomes the next one's by assigning all of them. A new program goes through the very same
assignments, so that a trial cannot tell whether it was the first.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import KEPT_STRUCTURES
from trainers.keras_draws import quick_draws
from trainers.keras_epochs import compiled
from trainers.keras_models import ready_to_train
from trainers.keras_widths import Widths

KEPT_WEIGHTS = 20_000_000
"""Of the idle programs that a process keeps, ``KEPT_STRUCTURES`` at most, all together."""
RESIDENT_BYTES = 1 << 30
"""Rows that take less stay where the backend calculates; of more, a piece at a time goes there."""
PIECE_BYTES = 1 << 26
OUTPUT_BYTES = 1 << 28
"""Predicting takes as many rows at once as keep four outputs of the largest layer within this: about what
there is at one time."""

_idle: list[tuple[str, "Program"]] = []
_resident: dict[int, Any] = {}


@dataclass(frozen=True)
class Numbers:
    """What a trial sets that changes no graph, beside its seed."""

    drops: Sequence[float]
    """The rate of each dropout layer of the model, in their order."""
    momentum: float
    weight_decay: float
    label_smoothing: float
    class_weights: NDArray[np.float32]
    """(classes,) what a row of each class counts for."""
    widths: Sequence[int] | None = None
    """Of each layer with weights but the last, where widths are open; else None."""


@contextmanager
def borrowed(key: str | None, make: Callable[[], "Program"]) -> Iterator["Program"]:
    """A program that nobody else uses meanwhile: an idle one of the same ``key``, or a new one.

    Afterwards it is kept for the next trial; one without a key is not.
    """
    place = next((i for i, (idle, _) in enumerate(_idle) if idle == key), None)
    program = make() if place is None else _idle.pop(place)[1]
    try:
        yield program
    finally:
        if key is not None and program.is_drawn:
            _idle.append((key, program))
            while len(_idle) > KEPT_STRUCTURES or sum(p.num_weights for _, p in _idle[:-1]) > KEPT_WEIGHTS:
                del _idle[0]


def forget() -> None:
    """Let go of all idle programs."""
    _idle.clear()


class Program:
    """A model, its optimizer, and the compiled functions that train and predict with them.

    ``model`` maps stored rows of ``dtype`` to logits, ``augment`` (or None) changes rows while they are
    trained on, and ``optimizer`` is not built yet. ``comes_trained`` tells of a model with first weights from
    elsewhere, which no seed could give it again, ``has_open_widths`` of one whose widths are among a trial's
    numbers (see ``Widths``). Raises TrainError on an unknown backend.
    """

    def __init__(
        self,
        model: Any,
        augment: Any,
        optimizer: Any,
        dtype: Any,
        comes_trained: bool = False,
        has_open_widths: bool = False,
    ) -> None:
        import keras

        self.model, self.augment, self.optimizer = model, augment, optimizer
        self._rule = getattr(optimizer, "inner_optimizer", optimizer)
        self._smoothing = keras.Variable(0.0, trainable=False, name="label_smoothing")
        self._class_weights = keras.Variable(
            np.ones(model.output_shape[-1], np.float32), trainable=False, name="classes"
        )
        self._drops = [
            _hold_rate(layer) for layer in _layers(model) if isinstance(layer, keras.layers.Dropout)
        ]
        self._momentum = _hold_momentum(self._rule)
        self._weight_decay = _hold_weight_decay(self._rule)
        self._widths = Widths(model) if has_open_widths else None
        ready_to_train(optimizer, model.trainable_variables)
        if self._widths:
            self._widths.follow(optimizer)
        self._fresh = [_constant(variable) for variable in optimizer.variables]
        self._weights = [] if comes_trained else list(_drawn_weights(model))
        self._train, self._predict = compiled(self, dtype)

    @property
    def num_weights(self) -> int:
        return sum(int(np.prod(variable.shape)) for variable in self.model.variables)

    @property
    def is_drawn(self) -> bool:
        """Whether all first weights come from initializers, so that another seed gives it others."""
        return len(self._weights) == len(self.model.weights)

    @property
    def numbers(self) -> list[Any]:
        """Variables that a trial sets once and no epoch changes, except the optimizer's own."""
        return [*self._drops, self._smoothing, self._class_weights]

    @property
    def training_state(self) -> list[Any]:
        """What training changes besides the model: random states of augmentation, the optimizer."""
        return [*(self.augment.variables if self.augment else []), *self.optimizer.variables]

    def begin(self, seed: int, numbers: Numbers) -> None:
        """Make it a trial's own: weights and random states from ``seed``, a fresh optimizer, its numbers.

        Weights that are not drawn are left as they were built.
        """
        if self._widths:
            self._widths.set(numbers.widths or ())
        if self.is_drawn:
            seeds = _seeds(seed, len(self._weights))
            with quick_draws():
                for (variable, initializer), own in zip(self._weights, seeds, strict=True):
                    variable.assign(_seeded(initializer, own)(variable.shape, variable.dtype))
        layers = [*self.model.variables, *(self.augment.variables if self.augment else [])]
        states = [variable for variable in layers if variable.name == "seed_generator_state"]
        for variable, own in zip(states, _seeds(seed, len(states), 1), strict=True):
            variable.assign(np.array([own, 0], variable.dtype))
        for variable, value in zip(self.optimizer.variables, self._fresh, strict=True):
            variable.assign(np.full(variable.shape, value, variable.dtype) if np.ndim(value) == 0 else value)
        if numbers.drops:  # an architecture that names none keeps those that it was built with
            for variable, rate in zip(self._drops, numbers.drops, strict=True):
                variable.assign(rate)
        for variable, value in (
            (self._momentum, numbers.momentum),
            (self._weight_decay, numbers.weight_decay),
        ):
            if variable is not None:
                variable.assign(value)
        self._smoothing.assign(numbers.label_smoothing)
        self._class_weights.assign(numbers.class_weights)

    def train(
        self, x: NDArray[Any], rows: NDArray[np.int64], y: NDArray[np.int64], counts: NDArray[np.float32]
    ) -> tuple[float, float]:
        """One update a batch; the sum over all rows of their losses, and how many were right.

        ``rows``, ``y`` and ``counts`` (batches, batch size) are numbers of rows of ``x``, their labels and
        what each row counts for.
        """
        total = np.zeros(2)
        for piece, numbers, part in _pieces(x, rows):
            sums = self._train(piece, numbers, y[part].astype(np.int32), counts[part])
            total += np.asarray(sums, float)
        return float(total[0]), float(total[1])

    def predict(self, x: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(len(rows), classes) probabilities of the rows of these numbers, in calls of one length."""
        size = max(1, min(_rows_at_once(self.model), len(rows)))
        filled = np.resize(rows, (-(-len(rows) // size), size))
        found = [
            np.asarray(self._predict(piece, batch))
            for piece, numbers, _ in _pieces(x, filled)
            for batch in numbers
        ]
        return (
            np.concatenate(found)[: len(rows)]
            if found
            else np.empty((0, self.model.output_shape[-1]), np.float32)
        )

    def loss(self, rows: Any, labels: Any, counts: Any) -> tuple[Any, Any]:
        """Of one batch while training: its loss, and the sums over its rows of loss and of right answers.

        A row's loss is its cross-entropy, with smoothed labels, times its class's weight. Class weights stand
        here and not among the counts, so that the accuracy counts all rows alike.
        """
        from keras import ops

        rows = ops.cast(rows, "float32")
        shown = self.augment(rows, training=True) if self.augment else rows
        logits = ops.cast(self.model(shown, training=True), "float32")
        classes = logits.shape[-1]
        smoothing = ops.convert_to_tensor(self._smoothing)
        targets = ops.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
        losses = -ops.sum(targets * ops.log_softmax(logits), axis=-1)
        losses *= ops.take(ops.convert_to_tensor(self._class_weights), labels)
        are_right = ops.cast(ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels), "float32")
        total = ops.sum(losses * counts)
        return total / ops.sum(counts), ops.stack([total, ops.sum(are_right * counts)])

    def probabilities(self, rows: Any) -> Any:
        """Of one batch, as the model is now."""
        from keras import ops

        return ops.softmax(ops.cast(self.model(ops.cast(rows, "float32"), training=False), "float32"))


# ---- numbers held in variables ----


def _hold_rate(layer: Any) -> Any:
    """Let a dropout layer read its rate from the variable returned; Keras has it in the graph."""
    import keras
    from keras import ops

    rate = keras.Variable(layer.rate, trainable=False, autocast=False, name="rate")

    def call(inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        kept = 1 - ops.convert_to_tensor(rate)
        chance = keras.random.uniform(ops.shape(inputs), dtype="float32", seed=layer.seed_generator)
        return ops.where(chance < kept, inputs / ops.cast(kept, inputs.dtype), ops.zeros_like(inputs))

    layer.call = call
    return rate


class _Momentum:
    """A momentum in a variable. Keras asks Python whether there is any: there is, or it would not be held."""

    def __init__(self, variable: Any) -> None:
        self._variable = variable

    def __ne__(self, other: object) -> bool:
        return True

    def __gt__(self, other: float) -> bool:
        return True

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        return self._variable.__tf_tensor__(dtype, name)

    def __jax_array__(self) -> Any:
        return self._variable.value


def _hold_momentum(rule: Any) -> Any | None:
    """The variable that the optimizer reads its momentum from, None where it has none."""
    if not getattr(rule, "momentum", None):
        return None
    variable = rule.add_variable(shape=(), dtype="float32", initializer="zeros", name="held_momentum")
    rule.momentum = _Momentum(variable)
    return variable


def _hold_weight_decay(rule: Any) -> Any | None:
    if not rule.weight_decay:
        return None
    variable = rule.add_variable(shape=(), dtype="float32", initializer="zeros", name="held_weight_decay")
    rule.weight_decay = variable
    return variable


# ---- a fresh state ----


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield layer


def _drawn_weights(model: Any) -> Iterator[tuple[Any, Any]]:
    """Each weight with its initializer, which Keras's layers keep as the attribute of that name."""
    for layer in _layers(model):
        for variable in layer.weights:
            if initializer := getattr(layer, f"{variable.name}_initializer", None):
                yield variable, initializer


def _seeds(seed: int, amount: int, stream: int = 0) -> list[int]:
    return [int(s) for s in np.random.SeedSequence([seed, stream]).generate_state(amount)]


def _seeded(initializer: Any, seed: int) -> Any:
    """The same initializer with this seed, if it draws at random at all."""
    config = initializer.get_config()
    return initializer.from_config({**config, "seed": seed}) if "seed" in config else initializer


def _constant(variable: Any) -> Any:
    """The one number that all of it holds, which is less to keep; else a copy."""
    value = np.asarray(variable)
    return value.flat[0] if value.size and (value == value.flat[0]).all() else value.copy()


# ---- rows where the backend calculates ----


def _pieces(x: NDArray[Any], rows: NDArray[np.int64]) -> Iterator[tuple[Any, NDArray[np.int32], slice]]:
    """Stored rows, the numbers that batches have among them, and which batches those are.

    All rows at once where they are resident; else the rows of as many batches as fit a piece.
    """
    if x.nbytes <= RESIDENT_BYTES:
        yield _on_device(x), rows.astype(np.int32), slice(None)
        return
    from keras import ops

    batches = max(1, int(PIECE_BYTES / (rows.shape[1] * x[:1].nbytes)))
    for first in range(0, len(rows), batches):
        part = slice(first, first + batches)
        places = np.arange(rows[part].size, dtype=np.int32).reshape(rows[part].shape)
        yield ops.convert_to_tensor(x[rows[part].ravel()]), places, part


def _on_device(x: NDArray[Any]) -> Any:
    """A copy of all rows, made once for as long as somebody has them."""
    if id(x) not in _resident:
        from keras import ops

        _resident[id(x)] = ops.convert_to_tensor(x)
        weakref.finalize(x, _resident.pop, id(x), None)  # another array may get its id
    return _resident[id(x)]


def _rows_at_once(model: Any) -> int:
    largest = max(4 * int(np.prod(shape[1:])) for shape in _output_shapes(model))
    return max(1, OUTPUT_BYTES // max(1, 4 * largest))


def _output_shapes(model: Any) -> Iterator[tuple[int, ...]]:
    """Of each layer as it is now; the outputs that a model was built with keep their first widths."""
    import keras

    if not isinstance(model, keras.Sequential):
        yield from (layer.output.shape for layer in _layers(model) if hasattr(layer, "output"))
        return
    shape = model.input_shape
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _output_shapes(layer)
        shape = layer.compute_output_shape(shape)
        yield shape
