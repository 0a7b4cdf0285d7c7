"""Random changes to images while a model trains on them, so that it never sees quite the same image twice."""

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainers.contract import Infeasible

if TYPE_CHECKING:
    import keras

_MOVES = ("flip", "rotation", "zoom", "shear", "shift")
_CHANGES = (*_MOVES, "contrast", "erasing")


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


def structure(settings: AugmentationSettings) -> str:
    """Equal texts: one `augmenter` serves both, once it holds the strengths of either.

    All that moves pixels is one layer, whichever of it is asked for.
    """
    return " ".join(dict.fromkeys("moves" if name in _MOVES else name for name in asked_changes(settings)))


def augmenter(
    settings: AugmentationSettings, shape: tuple[int, ...], scale: float
) -> "keras.Sequential | None":
    """A model from stored images to changed ones, None where settings ask for no change.

    It changes images only where it is called with ``training=True``. Its strengths and random states are
    variables of it; the random states follow from Keras's global seed. Edges that come into view repeat the
    image, mirrored. Raises Infeasible for rows that are no images.
    """
    asked = asked_changes(settings)
    if not asked:
        return None
    if len(shape) != 3:
        raise Infeasible(
            f"{', '.join(asked)}: augmentation needs images (height, width, channels); "
            f"these rows have shape {shape}"
        )
    from keras import Input, Sequential

    layers = _layers()
    model = Sequential([Input(shape), *(layers[name](scale) for name in structure(settings).split())])
    hold_strengths(model, settings)
    return model


def hold_strengths(model: "keras.Sequential", settings: AugmentationSettings) -> None:
    """From now on the model, made for settings of the same `structure`, changes images by these."""
    for layer in model.layers:
        for name, strength in layer.strengths.items():
            strength.assign(_strength(name, settings))


def _strength(name: str, settings: AugmentationSettings) -> float:
    if name.startswith("flip_"):
        return 0.5 if settings.flip in (name.removeprefix("flip_"), "both") else 0.0
    return float(getattr(settings, name))


def moved(
    images: Any,
    mirror: tuple[Any, Any],
    turn: Any,
    growth: Any,
    slant: tuple[Any, Any],
    shift: tuple[Any, Any],
) -> Any:
    """Images (n, height, width, channels), each mirrored, turned, grown, slanted and then shifted.

    Every number is (n,), of pairs the first is that along the width. ``mirror`` is -1 or 1, ``turn`` counts
    full turns anticlockwise, ``growth`` multiplies the sides, ``slant`` is what a side leans by as a share of
    the other and ``shift`` a share of the side. All is about the centre and resampled once: each resampling
    costs time and blurs.
    """
    from keras import ops

    height, width = images.shape[1:3]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    (slant_x, slant_y), (mirror_x, mirror_y) = slant, mirror
    sine, cosine = ops.sin(2 * math.pi * turn), ops.cos(2 * math.pi * turn)
    # From places in the new image to places in the old one, so each change is undone, the last one first.
    scale_x, scale_y = mirror_x / growth, mirror_y / growth
    xx, xy = scale_x * (cosine + sine * slant_y), scale_x * (-cosine * slant_x - sine)
    yx, yy = scale_y * (sine - cosine * slant_y), scale_y * (cosine - sine * slant_x)
    centre_x, centre_y = middle_x + width * shift[0], middle_y + height * shift[1]
    first_x = middle_x - xx * centre_x - xy * centre_y
    first_y = middle_y - yx * centre_x - yy * centre_y
    tilt = ops.zeros_like(turn)  # none: no part of an image is nearer than another
    places = ops.stack([xx, xy, first_x, yx, yy, first_y, tilt, tilt], axis=1)
    return ops.image.affine_transform(
        images, places, interpolation="bilinear", fill_mode="reflect", data_format="channels_last"
    )


@cache
def _layers() -> dict[str, Any]:
    """The class of each layer; made late, since Keras is imported late, and once."""
    from keras import Layer, ops, random

    class Change(Layer):
        """A layer that changes images in training, by strengths that are variables of it."""

        names: tuple[str, ...]

        def __init__(self, scale: float) -> None:
            # Whatever the model's precision: in half of it, places within an image are off by whole pixels.
            super().__init__(dtype="float32")
            self.scale = scale
            self.seed_generator = random.SeedGenerator()
            self.strengths = {name: self._strength(name) for name in self.names}

        def call(self, images: Any, training: bool = False) -> Any:
            return self.changed(images) if training else images

        def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
            return input_shape

        def changed(self, images: Any) -> Any:
            raise NotImplementedError

        def _strength(self, name: str) -> Any:
            return self.add_weight(name=name, shape=(), initializer="zeros", trainable=False)

        def _draws(self, number: int, images: Any) -> list[Any]:
            """So many tensors (n,), one value in [0, 1) for each image."""
            drawn = random.uniform((number, ops.shape(images)[0]), seed=self.seed_generator)
            return list(ops.unstack(drawn, number))

    class Moves(Change):
        names = ("flip_horizontal", "flip_vertical", "rotation", "zoom", "shear", "shift")

        def changed(self, images: Any) -> Any:
            draws = iter(self._draws(8, images))

            def mirror(name: str) -> Any:
                return ops.where(next(draws) < self.strengths[name], -1.0, 1.0)

            def either_way(name: str) -> Any:
                return (2 * next(draws) - 1) * self.strengths[name]

            return moved(
                images,
                mirror=(mirror("flip_horizontal"), mirror("flip_vertical")),
                turn=either_way("rotation"),
                growth=1 + either_way("zoom"),
                slant=(either_way("shear"), either_way("shear")),
                shift=(either_way("shift"), either_way("shift")),
            )

    class Contrast(Change):
        names = ("contrast",)

        def changed(self, images: Any) -> Any:
            (draw,) = self._draws(1, images)
            factor = ops.reshape(1 + (2 * draw - 1) * self.strengths["contrast"], (-1, 1, 1, 1))
            mean = ops.mean(images, axis=(1, 2), keepdims=True)
            return ops.clip(mean + (images - mean) * factor, 0, self.scale)

    class Erasing(Change):
        """Random erasing (Zhong et al. 2017, arXiv 1708.04896), each erased pixel replaced by uniform noise.

        A ratio of height to width is drawn evenly on a log scale, so that tall and wide are equally likely,
        among those with which the rectangle fits the image; the paper draws again until it fits.
        """

        names = ("erasing", "erasing_area_min", "erasing_area_max", "erasing_aspect_max")

        def changed(self, images: Any) -> Any:
            noise = random.uniform(ops.shape(images), maxval=self.scale, seed=self.seed_generator)
            return ops.where(self._erased(images), noise, images)

        def _erased(self, images: Any) -> Any:
            """(n, height, width, 1) whether a pixel is erased."""
            height, width = images.shape[1:3]
            chosen, area, ratio, top, left = self._draws(5, images)
            low, high = self.strengths["erasing_area_min"], self.strengths["erasing_area_max"]
            area = (low + area * (high - low)) * height * width
            most = ops.log(self.strengths["erasing_aspect_max"])
            flattest = ops.maximum(-most, ops.log(area / width**2))  # any flatter is wider than the image
            steepest = ops.minimum(most, ops.log(height**2 / area))
            ratio = ops.exp(flattest + ratio * (steepest - flattest))
            tall = ops.clip(ops.round(ops.sqrt(area * ratio)), 1, height)
            wide = ops.clip(ops.round(ops.sqrt(area / ratio)), 1, width)
            rows, columns = _span(height, top, tall), _span(width, left, wide)
            is_chosen = (chosen < self.strengths["erasing"])[:, None]
            return (rows & is_chosen)[:, :, None, None] & columns[:, None, :, None]

    def _span(length: int, start: Any, size: Any) -> Any:
        """(n, length) which places lie in a span of ``size``; ``start`` in [0, 1) draws where it begins."""
        places = ops.arange(length, dtype="float32")
        first = ops.floor(start * (length - size + 1))[:, None]
        return (places >= first) & (places < first + size[:, None])

    return {"moves": Moves, "contrast": Contrast, "erasing": Erasing}
