"""What each augmentation does to images, and how much of it."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from trainers.augmentation import AugmentationSettings, augmenter, hold_strengths, moved, structure
from trainers.contract import Infeasible
from trainers.keras_models import fresh_session

SIDE = 16
MANY = 400


def made(
    shape: Sequence[int], scale: float = 16.0, seed: int = 0, precision: str = "float32", **settings: Any
) -> Any:
    with fresh_session(seed, precision):
        model = augmenter(AugmentationSettings(**settings), tuple(shape), scale)
        assert model is not None
        return model


def augmented(
    images: np.ndarray, scale: float = 16.0, seed: int = 0, training: bool = True, **settings: Any
) -> np.ndarray:
    model = made(images.shape[1:], scale, seed, **settings)
    return np.asarray(model(images.astype(np.float32), training=training))


def moved_alike(images: np.ndarray, **changes: Any) -> np.ndarray:
    """Every image moved in the same way, by changes that default to none."""
    none: dict[str, Any] = {"mirror": (1, 1), "turn": 0, "growth": 1, "slant": (0, 0), "shift": (0, 0)}
    each = np.ones(len(images), np.float32)
    amounts = {
        name: tuple(each * one for one in value) if isinstance(value, tuple) else each * value
        for name, value in (none | changes).items()
    }
    return np.asarray(moved(images, **amounts))


def assert_even(values: np.ndarray, low: float, high: float) -> None:
    """As if drawn evenly between these: nowhere is the share of smaller ones far from what it should be."""
    shares = np.clip((np.sort(values) - low) / (high - low), 0, 1)
    assert np.abs(shares - (np.arange(len(values)) + 0.5) / len(values)).max() < 0.08
    assert values.min() >= low - 0.05 * (high - low) and values.max() <= high + 0.05 * (high - low)


def copies(image: np.ndarray) -> np.ndarray:
    return np.tile(image.astype(np.float32)[None, :, :, None], (MANY, 1, 1, 1))


def square(side: int) -> np.ndarray:
    """(SIDE, SIDE) a bright square in the middle."""
    image = np.zeros((SIDE, SIDE))
    near, far = (SIDE - side) // 2, (SIDE + side) // 2
    image[near:far, near:far] = 16
    return image


def centres(images: np.ndarray) -> np.ndarray:
    """(n, 2) row and column of the centre of mass."""
    places = np.arange(SIDE)
    mass = images[..., 0]
    sums = np.stack([mass.sum(axis=2) @ places, mass.sum(axis=1) @ places], axis=1)
    return np.asarray(sums / mass.sum(axis=(1, 2))[:, None])


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 15, (MANY, SIDE, SIDE, 2)).astype(np.float32)


EVERY: dict[str, Any] = {
    "flip": "both",
    "rotation": 0.1,
    "zoom": 0.2,
    "shear": 0.2,
    "shift": 0.2,
    "contrast": 0.5,
    "erasing": 0.5,
}


def test_nothing_asked_for_is_no_model() -> None:
    assert augmenter(AugmentationSettings(), (8, 8, 1), 255.0) is None
    assert augmenter(AugmentationSettings(), (512,), 1.0) is None


def test_vectors_are_refused_with_what_was_asked_of_them() -> None:
    with pytest.raises(Infeasible, match=r"flip, erasing: augmentation needs images .* shape \(512,\)"):
        augmenter(AugmentationSettings(flip="both", erasing=0.1), (512,), 1.0)


def test_areas_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"erasing_area_min 0.5 is above erasing_area_max 0.4"):
        AugmentationSettings(erasing_area_min=0.5)


def test_images_pass_unchanged_outside_training(noise: np.ndarray) -> None:
    assert np.array_equal(augmented(noise, training=False, **EVERY), noise)


@pytest.mark.parametrize("name", EVERY)
def test_each_changes_images_differently_and_keeps_their_range(name: str, noise: np.ndarray) -> None:
    changed = augmented(copies(noise[0, :, :, 0]), **{name: EVERY[name]})
    assert changed.shape == (MANY, SIDE, SIDE, 1)
    assert len(np.unique(changed, axis=0)) >= (4 if name == "flip" else MANY // 3)
    assert changed.min() >= 0 and changed.max() <= 16


def test_draws_follow_from_the_seed(noise: np.ndarray) -> None:
    one, again, other = (augmented(noise, seed=seed, **EVERY) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_draws_go_on_from_batch_to_batch(noise: np.ndarray) -> None:
    model = made(noise.shape[1:], **EVERY)
    one, other = (np.asarray(model(noise, training=True)) for _ in range(2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("flip", "mirrored"),
    [("horizontal", [np.fliplr]), ("vertical", [np.flipud]), ("both", [np.fliplr, np.flipud, np.rot90])],
)
def test_flip_mirrors_every_second_image(flip: str, mirrored: list[Any], noise: np.ndarray) -> None:
    image = noise[0, :, :, 0]
    changed = augmented(copies(image), flip=flip)[..., 0]
    shares = [(changed == image).all(axis=(1, 2)).mean()]
    for mirror in mirrored:
        expected = np.rot90(image, 2) if mirror is np.rot90 else mirror(image)
        shares.append((changed == expected).all(axis=(1, 2)).mean())
    assert sum(shares) == pytest.approx(1)
    np.testing.assert_allclose(shares, 1 / len(shares), atol=0.1)


def test_shift_is_drawn_evenly_both_ways_along_either_side() -> None:
    shifts = (centres(augmented(copies(square(4)), shift=0.25)) - (SIDE - 1) / 2) / SIDE
    assert_even(shifts[:, 0], -0.25, 0.25)
    assert_even(shifts[:, 1], -0.25, 0.25)
    assert abs(np.corrcoef(shifts, rowvar=False).min()) < 0.1


def test_zoom_shrinks_and_grows_both_sides_alike_by_its_share() -> None:
    changed = augmented(copies(square(8)), zoom=0.25)[..., 0] / 16
    tall, wide = changed.sum(axis=1).max(axis=1), changed.sum(axis=2).max(axis=1)
    np.testing.assert_allclose(tall, wide, atol=1e-4)
    assert_even(tall / 8, 0.75, 1.25)


def test_rotation_is_drawn_evenly_both_ways() -> None:
    bar = np.zeros((SIDE, SIDE))
    bar[7:9, 3:13] = 16
    mass = augmented(copies(bar), rotation=0.1)[..., 0]
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angles = 0.5 * np.arctan2(2 * (mass * x * y).sum(axis=(1, 2)), (mass * (x**2 - y**2)).sum(axis=(1, 2)))
    assert_even(angles / (2 * np.pi), -0.1, 0.1)


@pytest.mark.parametrize("axis", [0, 1])
def test_shear_is_drawn_evenly_both_ways_for_each_side(axis: int) -> None:
    image = np.zeros((SIDE, SIDE))
    image[:2, 7:9] = image[-2:, 7:9] = 16  # the ends of a line: what moves apart by the slant of the line
    changed = augmented(copies(image if axis == 0 else image.T), shear=0.25)
    halves = np.split(changed, 2, axis=1 + axis)
    places = np.arange(SIDE)
    at = [half[..., 0].sum(axis=1 + axis) @ places / half.sum(axis=(1, 2, 3)) for half in halves]
    assert_even((at[1] - at[0]) / (SIDE - 2), -0.25, 0.25)


def test_a_mirror_gives_exact_pixels(noise: np.ndarray) -> None:
    assert np.array_equal(moved_alike(noise, mirror=(-1, 1)), noise[:, :, ::-1])
    assert np.array_equal(moved_alike(noise, mirror=(1, -1)), noise[:, ::-1])


@pytest.mark.parametrize("quarters", [1, -1, 2])
def test_quarter_turns_give_exact_pixels(quarters: int, noise: np.ndarray) -> None:
    turned = moved_alike(noise, turn=quarters / 4)
    np.testing.assert_allclose(turned, np.rot90(noise, quarters, axes=(1, 2)), atol=1e-4)


def test_a_turn_keeps_the_angles_of_an_image_longer_than_wide(noise: np.ndarray) -> None:
    turned = moved_alike(noise[:, :, 4:12], turn=0.25)
    np.testing.assert_allclose(turned[:, 4:12], np.rot90(noise[:, 4:12, 4:12], axes=(1, 2)), atol=1e-4)


def test_a_shift_by_whole_pixels_gives_exact_pixels_and_mirrors_the_edge(noise: np.ndarray) -> None:
    shifted = moved_alike(noise, shift=(3 / SIDE, -2 / SIDE))
    expected = np.pad(noise, ((0, 0), (0, 2), (3, 0), (0, 0)), "symmetric")[:, 2:, :-3]
    assert np.array_equal(shifted, expected)


def test_growth_by_two_puts_every_pixel_twice_as_far_from_the_middle(noise: np.ndarray) -> None:
    image = noise[:, :9, :9]
    np.testing.assert_allclose(moved_alike(image, growth=2.0)[:, ::2, ::2], image[:, 2:7, 2:7], atol=1e-5)


def test_a_slant_moves_each_row_or_column_by_its_distance_from_the_middle(noise: np.ndarray) -> None:
    image = noise[:, :9, :9]
    across, down = (moved_alike(image, slant=slant) for slant in ((1.0, 0.0), (0.0, 1.0)))
    for distance in (-2, -1, 0, 1, 2):
        place, inside = 4 + distance, slice(2 + distance, 7 + distance)
        np.testing.assert_allclose(across[:, place, inside], image[:, place, 2:7], atol=1e-5)
        np.testing.assert_allclose(down[:, inside, place], image[:, 2:7, place], atol=1e-5)


def test_all_moves_at_once_are_one_after_the_other(noise: np.ndarray) -> None:
    image = noise[:, :15, :15]
    changes: dict[str, Any] = {
        "mirror": (-1, 1),
        "turn": 0.25,
        "growth": 2.0,
        "slant": (1.0, 0.0),
        "shift": (2 / 15, 0.0),
    }
    expected = image
    for name, amount in changes.items():
        expected = moved_alike(expected, **{name: amount})
    at_once = moved_alike(image, **changes)
    # Every second pixel, since these meet whole ones, and where nothing from beyond the edges is seen.
    np.testing.assert_allclose(at_once[:, 5:11:2, 7:11:2], expected[:, 5:11:2, 7:11:2], atol=1e-3)


def test_contrast_falls_and_rises_by_its_share() -> None:
    image = np.random.default_rng(0).uniform(6, 10, (SIDE, SIDE))
    factors = augmented(copies(image), contrast=0.5).std(axis=(1, 2, 3)) / image.std()
    assert factors.min() == pytest.approx(0.5, abs=0.03)
    assert factors.max() == pytest.approx(1.5, abs=0.03)


def erased(share: float, side: int = 28, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """(n, side, side, 3) which values were erased, and the images they were erased from."""
    images = np.full((2000, side, side, 3), -1.0, np.float32)  # no noise is below 0
    changed = augmented(images, scale=255.0, erasing=share, **settings)
    return np.asarray(changed != -1), changed


def sides(where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) height and (n,) width of what was erased."""
    rows, columns = np.any(where, axis=(2, 3)), np.any(where, axis=(1, 3))
    return np.sum(rows, axis=1), np.sum(columns, axis=1)


def test_erasing_touches_its_share_of_images() -> None:
    where, _ = erased(0.15)
    assert where.any(axis=(1, 2, 3)).mean() == pytest.approx(0.15, abs=0.03)


def test_erasing_is_a_rectangle_of_the_areas_and_aspects_asked_for() -> None:
    where, _ = erased(1.0)
    tall, wide = sides(where)
    assert (where.sum(axis=(1, 2, 3)) == 3 * tall * wide).all()  # all channels, nothing outside
    rounding = 0.5 * (tall + wide) + 0.25
    assert (tall * wide + rounding >= 0.02 * 28 * 28).all()
    assert (tall * wide - rounding <= 0.4 * 28 * 28).all()
    assert ((tall - 0.5) / (wide + 0.5) <= 3.3).all() and ((wide - 0.5) / (tall + 0.5) <= 3.3).all()
    area, ratio = tall * wide / 28**2, np.log(tall / wide)
    assert area.mean() == pytest.approx(0.21, abs=0.01)
    assert ratio.mean() == pytest.approx(0, abs=0.05)
    assert ratio.max() > 1 and ratio.min() < -1


def test_erasing_reaches_every_pixel_with_noise_over_the_whole_range() -> None:
    where, changed = erased(1.0)
    assert where.any(axis=0).all()
    noise = changed[where]
    assert noise.min() >= 0 and noise.max() <= 255
    assert noise.mean() == pytest.approx(127.5, abs=1)
    assert noise.std() == pytest.approx(255 / 12**0.5, abs=1)


def test_erasing_settings_set_area_and_aspect() -> None:
    where, _ = erased(1.0, side=20, erasing_area_min=0.25, erasing_area_max=0.25, erasing_aspect_max=1.0)
    assert (np.stack(sides(where)) == 10).all()


def test_erasing_fits_an_image_far_longer_than_wide() -> None:
    images = np.full((50, 64, 4, 1), -1.0, np.float32)
    changed = augmented(images, erasing=1.0, erasing_area_min=0.9, erasing_area_max=1.0)
    assert ((changed != -1).mean(axis=(1, 2, 3)) > 0.2).all()


def compiled(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Training calls of a model as one program of the backend, as the trainer makes them."""
    import keras

    if keras.config.backend() == "jax":
        jax: Any = import_module("jax")
        program = jax.jit(lambda state, images: model.stateless_call([], state, images, training=True))

        def call(images: np.ndarray) -> np.ndarray:
            changed, state = program([variable.value for variable in model.variables], images)
            for variable, value in zip(model.variables, state, strict=True):
                variable.assign(value)
            return np.asarray(changed)

        return call
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])
    def last_of_three(images: Any) -> Any:
        changed = images
        for _ in tf.range(3):
            changed = model(images, training=True)
        return changed

    return lambda images: np.asarray(last_of_three(images))


WEAK: dict[str, Any] = {
    "flip": "horizontal",
    "rotation": 0.01,
    "contrast": 0.1,
    "erasing": 0.1,
    "erasing_area_min": 0.3,
    "erasing_aspect_max": 1.5,
}


@pytest.mark.jax
def test_strengths_given_later_are_those_it_might_have_been_made_with(noise: np.ndarray) -> None:
    assert structure(AugmentationSettings(**WEAK)) == structure(AugmentationSettings(**EVERY))
    fresh, reused = (made(noise.shape[1:], **settings) for settings in (EVERY, WEAK))
    of_fresh, of_reused = compiled(fresh), compiled(reused)
    weak = of_reused(noise)
    for variable, initial in zip(reused.variables, made(noise.shape[1:], **WEAK).variables, strict=True):
        variable.assign(initial)  # its random states begin again
    hold_strengths(reused, AugmentationSettings(**EVERY))
    for images in (noise, noise[:7]):
        strong = of_fresh(images)
        assert np.array_equal(of_reused(images), strong)
        assert not np.array_equal(weak[: len(images)], strong)


def test_strengths_and_random_states_are_all_it_takes_to_go_on(noise: np.ndarray) -> None:
    one, other = made(noise.shape[1:], seed=1, **EVERY), made(noise.shape[1:], seed=2, **WEAK)
    run_one, run_other = compiled(one), compiled(other)
    run_one(noise)
    for mine, theirs in zip(other.variables, one.variables, strict=True):
        assert not mine.trainable
        mine.assign(theirs)
    assert np.array_equal(run_one(noise), run_other(noise))


def test_precision_of_the_model_does_not_matter(noise: np.ndarray) -> None:
    exact, mixed = (made(noise.shape[1:], precision=name, **EVERY) for name in ("float32", "mixed_bfloat16"))
    assert {variable.dtype for layer in mixed.layers for variable in layer.weights} == {"float32"}
    assert np.array_equal(exact(noise, training=True), mixed(noise, training=True))


def test_stored_bytes_are_taken_as_they_are() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    of_bytes, of_floats = (made(images.shape[1:], scale=255.0, **EVERY) for _ in range(2))
    changed = of_floats(images.astype(np.float32), training=True)
    assert np.array_equal(of_bytes(images, training=True), changed)
    assert np.array_equal(of_bytes(images, training=False), images)


def test_structure_tells_layers_apart_and_no_strengths() -> None:
    def of(**settings: Any) -> str:
        return structure(AugmentationSettings(**settings))

    assert of() == of(erasing_area_min=0.1) == ""
    assert of(rotation=0.1) == of(rotation=0.2) == of(flip="both", shift=0.1)
    assert len({of(), of(zoom=0.1), of(contrast=0.1), of(erasing=0.1), of(**EVERY)}) == 5
