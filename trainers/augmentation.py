"""Random changes to images while a model trains on them, so that it never sees quite the same image twice."""

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainers.contract import Infeasible

if TYPE_CHECKING:
    import keras

_CHANGES = ("flip", "rotation", "zoom", "shear", "shift", "contrast", "erasing")
_FLIPS = {"horizontal": ["horizontal"], "vertical": ["vertical"], "both": ["horizontal", "vertical"]}


class AugmentationSettings(BaseModel):
    """Each change is drawn anew for every image of every batch; none is on by default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    flip: Literal["none", "horizontal", "vertical", "both"] = Field(
        "none", description="mirror every second image, left to right, upside down, or each by itself"
    )
    rotation: float = Field(0.0, ge=0, le=0.5, description="largest angle either way; share of a full turn")
    zoom: float = Field(
        0.0, ge=0, le=0.9, description="most that an image shrinks or grows; share of its side"
    )
    shear: float = Field(0.0, ge=0, le=1, description="most that a side is slanted; share of the other side")
    shift: float = Field(
        0.0, ge=0, le=1, description="most that an image moves; share of its height and width"
    )
    contrast: float = Field(
        0.0, ge=0, le=1, description="most that contrast falls or rises; share of its own"
    )
    erasing: float = Field(0.0, ge=0, le=1, description="share of images that lose a rectangle to noise")
    erasing_area_min: float = Field(0.02, gt=0, le=1, description="smallest rectangle; share of the image")
    erasing_area_max: float = Field(0.4, gt=0, le=1, description="largest rectangle; share of the image")
    erasing_aspect_max: float = Field(
        3.3, ge=1, le=10, description="longest rectangle, height : width or width : height"
    )

    @model_validator(mode="after")
    def _areas_are_in_order(self) -> Self:
        if self.erasing_area_min > self.erasing_area_max:
            raise ValueError(
                f"erasing_area_min {self.erasing_area_min} is above erasing_area_max {self.erasing_area_max}"
            )
        return self


def asked_changes(settings: AugmentationSettings) -> list[str]:
    """The settings that change images, in the order in which they do."""
    return [name for name in _CHANGES if getattr(settings, name) not in ("none", 0)]


def augmenter(
    settings: AugmentationSettings, shape: tuple[int, ...], scale: float
) -> "keras.Sequential | None":
    """A model from stored images to changed ones, None where settings ask for no change.

    It changes images only where it is called with ``training=True``. Its random states are variables of it
    that follow from Keras's global seed. Edges that come into view repeat the image, mirrored. Raises
    Infeasible for rows that are no images.
    """
    asked = asked_changes(settings)
    if not asked:
        return None
    if len(shape) != 3:
        raise Infeasible(
            f"{', '.join(asked)}: augmentation needs images (height, width, channels); "
            f"these rows have shape {shape}"
        )
    from keras import Input, Sequential, layers

    # Whatever the model's precision: in half of it, positions within an image are off by whole pixels.
    exact: dict[str, Any] = {"dtype": "float32"}
    made = {
        # One layer told to flip both ways flips both or neither.
        "flip": lambda: Sequential([layers.RandomFlip(way, **exact) for way in _FLIPS[settings.flip]]),
        "rotation": lambda: layers.RandomRotation(settings.rotation, **exact),
        "zoom": lambda: layers.RandomZoom(settings.zoom, **exact),
        "shear": lambda: layers.RandomShear(settings.shear, settings.shear, **exact),
        "shift": lambda: layers.RandomTranslation(settings.shift, settings.shift, **exact),
        # A single number would only ever raise the contrast.
        "contrast": lambda: layers.RandomContrast((settings.contrast,) * 2, value_range=(0, scale), **exact),
        "erasing": lambda: _random_erasing()(settings, scale, **exact),
    }
    return Sequential([Input(shape), *(made[name]() for name in asked)])


@cache
def _random_erasing() -> Any:
    """The layer's class; made late, since Keras is imported late, and once."""
    from keras import Layer, ops, random

    class RandomErasing(Layer):
        """Random erasing (Zhong et al. 2017, arXiv 1708.04896), each erased pixel replaced by uniform noise.

        Keras's own layer draws height and width apart and so has no aspect ratio to set. Here a ratio is
        drawn evenly on a log scale, so that tall and wide are equally likely, among those with which the
        rectangle fits the image; the paper draws again until it fits.
        """

        def __init__(self, settings: AugmentationSettings, scale: float, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.settings, self.scale = settings, scale
            self.seed_generator = random.SeedGenerator()

        def call(self, images: Any, training: bool = False) -> Any:
            if not training:
                return images
            noise = random.uniform(ops.shape(images), maxval=self.scale, seed=self.seed_generator)
            return ops.where(self._erased(images), noise, images)

        def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
            return input_shape

        def _erased(self, images: Any) -> Any:
            """(n, height, width, 1) whether a pixel is erased."""
            count, (height, width) = ops.shape(images)[0], images.shape[1:3]
            draws = random.uniform((5, count, 1, 1, 1), seed=self.seed_generator)
            chosen, area, ratio, top, left = (draws[i] for i in range(5))
            low, high = self.settings.erasing_area_min, self.settings.erasing_area_max
            area = (low + area * (high - low)) * height * width
            most = ops.log(self.settings.erasing_aspect_max)
            flattest = ops.maximum(-most, ops.log(area / width**2))  # any flatter is wider than the image
            steepest = ops.minimum(most, ops.log(height**2 / area))
            ratio = ops.exp(flattest + ratio * (steepest - flattest))
            tall = ops.clip(ops.round(ops.sqrt(area * ratio)), 1, height)
            wide = ops.clip(ops.round(ops.sqrt(area / ratio)), 1, width)
            rows = _span(height, top, tall, (1, height, 1, 1))
            columns = _span(width, left, wide, (1, 1, width, 1))
            return (chosen < self.settings.erasing) & rows & columns

    def _span(length: int, start: Any, size: Any, shape: tuple[int, ...]) -> Any:
        """Which of ``length`` places lie in a span of ``size``; ``start`` in [0, 1) draws where it begins."""
        places = ops.reshape(ops.arange(length, dtype="float32"), shape)
        first = ops.floor(start * (length - size + 1))
        return (places >= first) & (places < first + size)

    return RandomErasing
