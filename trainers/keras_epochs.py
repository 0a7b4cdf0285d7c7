"""A whole epoch as one call of a compiled function where that is fastest, on each backend."""

from collections.abc import Callable
from typing import Any, Protocol

from trainers.contract import TrainError
from trainers.keras_updates import use_kernels

_Functions = tuple[Callable[..., Any], Callable[..., Any]]


class Trainable(Protocol):
    """What there is to compile; its methods are written in `keras.ops` and traced once."""

    model: Any
    optimizer: Any

    @property
    def numbers(self) -> list[Any]:
        """Variables that an epoch only reads, beside those of the model and the optimizer."""
        ...

    @property
    def training_state(self) -> list[Any]:
        """All variables that an epoch changes, beside those of the model."""
        ...

    def loss(self, rows: Any, labels: Any, counts: Any) -> tuple[Any, Any]: ...

    def probabilities(self, rows: Any) -> Any: ...


def compiled(program: Trainable, dtype: Any) -> _Functions:
    """``train(x, rows, y, counts)``, one update a batch, which returns the sum of what ``program.loss``
    tells; and ``predict(x, rows)``, the probabilities of one batch.

    ``x`` holds all rows, of ``dtype``; ``rows``, ``y`` and ``counts`` are (batches, batch size), those of
    ``predict`` (n,). Raises TrainError on any other backend than TensorFlow and JAX.
    """
    import keras

    match backend := keras.config.backend():
        case "tensorflow":
            return _tensorflow(program, dtype)
        case "jax":
            return _jax(program)
    raise TrainError(
        f"KERAS_BACKEND is {backend}, and models are trained on tensorflow or jax: set it to one of them"
    )


def _tensorflow(program: Trainable, dtype: Any) -> _Functions:
    """Numbers of batches and of rows are left open, so that one graph serves them all."""
    import tensorflow as tf

    model, optimizer = program.model, program.optimizer
    use_kernels(getattr(optimizer, "inner_optimizer", optimizer))
    variables = [variable.value for variable in model.trainable_variables]
    x_spec = tf.TensorSpec(model.input_shape, dtype)
    batches = [tf.TensorSpec([None, None], kind) for kind in (tf.int32, tf.int32, tf.float32)]

    # A graph of its own: within the loop, whose graph has a cycle, TensorFlow gives the gradient of a max
    # pool now to one kernel and now to another, and they add up overlapping windows in different orders.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def update(rows: Any, y: Any, counts: Any) -> Any:
        with tf.GradientTape() as tape:
            loss, told = program.loss(rows, y, counts)
            loss = optimizer.scale_loss(loss)
        optimizer.apply(tape.gradient(loss, variables), model.trainable_variables)
        return told

    @tf.function(autograph=False, input_signature=[x_spec, *batches])
    def train(x: Any, rows: Any, y: Any, counts: Any) -> Any:
        def step(i: Any, sums: Any) -> tuple[Any, Any]:
            return i + 1, sums + update(tf.gather(x, rows[i]), y[i], counts[i])

        begin = (tf.constant(0), tf.zeros(2))
        return tf.while_loop(lambda i, _: i < tf.shape(rows)[0], step, begin, parallel_iterations=1)[1]

    @tf.function(autograph=False, input_signature=[x_spec, tf.TensorSpec([None], tf.int32)])
    def predict(x: Any, rows: Any) -> Any:
        return program.probabilities(tf.gather(x, rows))

    return train, predict


def _jax(program: Trainable) -> _Functions:
    """Functions of the state, which JAX compiles anew for every shape of their arguments."""
    import jax  # type: ignore[import-not-found,unused-ignore]  # optional
    import keras

    model, optimizer = program.model, program.optimizer
    trainable = model.trainable_variables
    changed = [*model.non_trainable_variables, *program.training_state]
    changed = [variable for variable in changed if all(variable is not own for own in optimizer.variables)]
    groups = [trainable, changed, optimizer.variables, program.numbers]

    def values() -> list[list[Any]]:
        return [[variable.value for variable in group] for group in groups]

    def update(state: list[list[Any]], x: Any, batch: tuple[Any, Any, Any]) -> tuple[list[Any], Any]:
        weights, others, slots, numbers = state
        rows, y, counts = batch

        def loss_of(weights: Any) -> Any:
            mapping = _mapping(groups, [weights, others, slots, numbers])
            with keras.StatelessScope(state_mapping=mapping) as scope:
                loss, told = program.loss(x[rows], y, counts)
                loss = optimizer.scale_loss(loss)
            return loss, (told, [scope.get_current_value(variable) for variable in changed])

        gradients, (told, others) = jax.grad(loss_of, has_aux=True)(weights)
        weights, slots = optimizer.stateless_apply(slots, gradients, weights)
        return [weights, others, slots], told

    def epoch(state: list[list[Any]], x: Any, batches: tuple[Any, Any, Any]) -> tuple[list[Any], Any]:
        def step(carried: list[Any], batch: Any) -> tuple[list[Any], Any]:
            return update([*carried, state[3]], x, batch)

        carried, told = jax.lax.scan(step, state[:3], batches)
        return carried, told.sum(axis=0)

    # XLA has no fast convolution for a loop on a CPU: a call for each batch takes a fifth of the time there.
    run = _one_by_one(jax.jit(update)) if jax.default_backend() == "cpu" else jax.jit(epoch)

    def train(x: Any, rows: Any, y: Any, counts: Any) -> Any:
        carried, sums = run(values(), x, (rows, y, counts))
        for variable, value in _mapping(groups[:3], carried):
            variable.assign(value)
        return sums

    def probabilities(state: list[list[Any]], x: Any, rows: Any) -> Any:
        with keras.StatelessScope(state_mapping=_mapping(groups, state)):
            return program.probabilities(x[rows])

    predict_compiled = jax.jit(probabilities)
    return train, lambda x, rows: predict_compiled(values(), x, rows)


def _one_by_one(update: Callable[..., Any]) -> Callable[..., Any]:
    """An epoch as so many calls of ``update``, one for each batch."""

    def run(state: list[list[Any]], x: Any, batches: tuple[Any, Any, Any]) -> tuple[list[Any], Any]:
        sums: Any = 0
        for batch in zip(*batches, strict=True):
            carried, told = update(state, x, batch)
            state, sums = [*carried, state[3]], sums + told
        return state[:3], sums

    return run


def _mapping(groups: list[list[Any]], values: Any) -> list[tuple[Any, Any]]:
    pairs = zip(groups, values, strict=True)
    return [pair for group, held in pairs for pair in zip(group, held, strict=True)]
