"""What each augmentation does to images, and how much of it."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from trainers.augmentation import AugmentationSettings, augmenter
from trainers.contract import Infeasible
from trainers.keras_models import fresh_session

SIDE = 16
MANY = 400


def augmented(
    images: np.ndarray, scale: float = 16.0, seed: int = 0, training: bool = True, **settings: Any
) -> np.ndarray:
    with fresh_session(seed, "float32"):
        model = augmenter(AugmentationSettings(**settings), images.shape[1:], scale)
    assert model is not None
    return np.asarray(model(images.astype(np.float32), training=training))


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
    with fresh_session(0, "float32"):
        model = augmenter(AugmentationSettings(**EVERY), noise.shape[1:], 16.0)
    assert model is not None
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


def test_shift_moves_both_ways_and_no_further() -> None:
    moved = centres(augmented(copies(square(4)), shift=0.25)) - (SIDE - 1) / 2
    assert np.abs(moved).max() <= 0.25 * SIDE + 1e-3
    assert (moved.min(axis=0) < -3).all() and (moved.max(axis=0) > 3).all()


def test_zoom_shrinks_and_grows_in_proportion() -> None:
    area = augmented(copies(square(8)), zoom=0.25).sum(axis=(1, 2, 3)) / (16 * 64)
    assert area.min() >= 1 / 1.25**2 - 0.03 and area.max() <= 1 / 0.75**2 + 0.03
    assert area.min() < 0.75 and area.max() > 1.5


def test_rotation_turns_both_ways_and_no_further() -> None:
    bar = np.zeros((SIDE, SIDE))
    bar[7:9, 3:13] = 16
    mass = augmented(copies(bar), rotation=0.1)[..., 0]
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angles = 0.5 * np.arctan2(2 * (mass * x * y).sum(axis=(1, 2)), (mass * (x**2 - y**2)).sum(axis=(1, 2)))
    turns = angles / (2 * np.pi)
    assert np.abs(turns).max() <= 0.1 + 0.005
    assert turns.min() < -0.08 and turns.max() > 0.08


def test_shear_slants_rows_by_their_distance_from_the_edge() -> None:
    image = np.zeros((SIDE, SIDE))
    image[7:9, 7:9] = 16
    moved = centres(augmented(copies(image), shear=0.25)) - 7.5
    assert np.abs(moved).max() <= 0.25 * 9 / (1 - 0.25**2)  # up to 9 from the edge, slanted both ways
    assert (moved.min(axis=0) < -1).all() and (moved.max(axis=0) > 1).all()


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
