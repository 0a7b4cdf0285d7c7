"""Small KerasTuner hypermodels as their authors would write them, for the tests."""

from typing import Any

import keras
import keras_tuner


def softmax(hp: keras_tuner.HyperParameters) -> Any:
    """The pattern of KerasTuner's own guide: a loop over as many layers as a hyperparameter says."""
    model = keras.Sequential([keras.layers.Flatten()])
    for i in range(hp.Int("layers", 1, 3)):
        model.add(keras.layers.Dense(hp.Int(f"units_{i}", 8, 32, step=8), activation="relu"))
    if hp.Boolean("dropout"):
        model.add(keras.layers.Dropout(hp.Float("dropout rate", 0.1, 0.5)))
    model.add(keras.layers.Dense(10, activation="softmax"))
    rate = hp.Float("lr", 1e-4, 1e-1, sampling="log", default=1e-2)
    model.compile(
        optimizer=keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


class Net(keras_tuner.HyperModel):
    """Conditional scopes, name scopes and every kind of hyperparameter."""

    def build(self, hp: Any) -> Any:
        kind = hp.Choice("kind", ["mlp", "cnn"])
        layers = [keras.layers.Flatten()]
        with hp.conditional_scope("kind", ["mlp"]), hp.name_scope("mlp"):
            units = hp.Int("units", 8, 64, sampling="log", default=16)
            if kind == "mlp":
                layers.append(keras.layers.Dense(units, activation="relu"))
        with hp.conditional_scope("kind", ["cnn"]), hp.name_scope("cnn"):
            filters = hp.Choice("filters", [4, 8])
            size = hp.Int("kernel size", 3, 9, step=2)
            if kind == "cnn":
                layers.insert(0, keras.layers.Conv2D(filters, size, activation="relu"))
        hp.Fixed("version", "v2")
        momentum = hp.Float(
            "momentum", 0.1, 0.9, sampling="reverse_log", parent_name="kind", parent_values="cnn"
        )
        rate = hp.Choice("rate", [0.1, 0.01])
        smoothing = hp.Float("smoothing", 0.0, 0.3, step=0.1)
        model = keras.Sequential([*layers, keras.layers.Dense(10)])
        model.compile(
            optimizer=keras.optimizers.SGD(rate, momentum=momentum or 0.0),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing),
            metrics=["accuracy"],
        )
        return model


class Sized(keras_tuner.HyperModel):
    """Is told the data's shape and classes, and has a batch size and a number of epochs of its own."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.classes = classes

    def build(self, hp: Any) -> Any:
        hp.Int("batch_size", 16, 64, step=16, default=48)
        hp.Int("epochs", 1, 2)
        inputs = keras.Input(self.input_shape)
        hidden = keras.layers.Dense(hp.Int("units", 4, 16), activation="relu")(keras.layers.Flatten()(inputs))
        outputs = keras.layers.Dense(self.classes, activation="softmax")(hidden)
        model = keras.Model(inputs, outputs)
        model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", steps_per_execution=2)
        return model


class OnJax(Sized):
    """Can be built on JAX alone."""

    def build(self, hp: Any) -> Any:
        if (backend := keras.config.backend()) != "jax":
            raise RuntimeError(f"this is {backend}")
        return super().build(hp)


def sigmoid(hp: Any) -> Any:
    return _binary(hp, "sigmoid", "binary_crossentropy")


def sigmoid_of_logits(hp: Any) -> Any:
    return _binary(hp, None, keras.losses.BinaryCrossentropy(from_logits=True))


def _binary(hp: Any, activation: str | None, loss: Any) -> Any:
    hidden = keras.layers.Dense(hp.Int("units", 4, 16), activation="relu")
    model = keras.Sequential([keras.layers.Flatten(), hidden, keras.layers.Dense(1, activation=activation)])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    return model


def crossing(hp: Any) -> Any:
    """Hyperparameters that two others decide on together, and one that is always there."""
    kind = hp.Choice("kind", ["a", "b"])
    for i in range(hp.Int("layers", 1, 2)):
        if kind == "a":
            hp.Int(f"a{i}", 1, 4)
        else:
            hp.Boolean(f"b{i}")
    hp.Float("always", 0, 1)
    return _plain(keras.layers.Dense(10, activation="softmax"), "sparse_categorical_crossentropy")


class OwnFit(keras_tuner.HyperModel):
    def build(self, hp: Any) -> Any:
        hp.Int("units", 1, 1000, step=3)
        return _plain(keras.layers.Dense(10, activation="softmax"), "sparse_categorical_crossentropy")

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        return model.fit(*args, batch_size=hp.Choice("batch_size", [16, 32]), **kwargs)


# ---- what goes wrong ----


def narrowing(hp: Any) -> Any:
    """Has no model on small images: each layer takes two pixels off every side."""
    layers = [keras.layers.Conv2D(2, 5) for _ in range(hp.Int("layers", 1, 4))]
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")])
    model.compile(loss="sparse_categorical_crossentropy")
    return model


def too_large(hp: Any) -> Any:
    if hp.Boolean("large"):
        raise keras_tuner.errors.FailedTrialError("larger than anyone can train\nand more")
    return _plain(keras.layers.Dense(10, activation="softmax"), "sparse_categorical_crossentropy")


def uncompiled(hp: Any) -> Any:
    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")])


def regression(hp: Any) -> Any:
    return _plain(keras.layers.Dense(10), "mse")


def seven_units(hp: Any) -> Any:
    return _plain(keras.layers.Dense(7, activation="softmax"), "sparse_categorical_crossentropy")


def forgotten_softmax(hp: Any) -> Any:
    return _plain(keras.layers.Dense(10), "sparse_categorical_crossentropy")


def forgotten_return(hp: Any) -> None:
    hp.Int("units", 1, 4)


def two_meanings(hp: Any) -> Any:
    hp.Choice("kind", ["a", "b"])
    with hp.conditional_scope("kind", ["a"]):
        hp.Int("units", 1, 4)
    with hp.conditional_scope("kind", ["b"]):
        hp.Int("units", 8, 64)
    return _plain(keras.layers.Dense(10, activation="softmax"), "sparse_categorical_crossentropy")


def underscore(hp: Any) -> Any:
    hp.Int("_units", 1, 4)
    return _plain(keras.layers.Dense(10, activation="softmax"), "sparse_categorical_crossentropy")


class Needy(keras_tuner.HyperModel):
    def __init__(self, width: int) -> None:
        super().__init__()


def _plain(last: Any, loss: str) -> Any:
    model = keras.Sequential([keras.layers.Flatten(), last])
    model.compile(loss=loss)
    return model


class Other:
    """No hypermodel."""


sized = Sized((8, 8, 1), 10)
number = 7
