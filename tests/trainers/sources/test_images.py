"""Image files are decoded as asked, kept on disk, and read from there as long as nothing changed."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from trainers.contract import DataError
from trainers.images import ImageFiles, decoded


def files(*paths):
    return ImageFiles(tuple(map(str, paths)))


def faults_of(images, size=None, channels=None, cache=None):
    with pytest.raises(DataError) as error:
        decoded(images, size, channels, cache)
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("mode", "channels", "value"),
    [("L", None, [7]), ("RGB", None, [7] * 3), ("RGBA", None, [7] * 3), ("LA", None, [7])]
    + [("L", "rgb", [7] * 3), ("RGB", "grey", [7]), ("I;16", None, [0]), ("I;16", "rgb", [0] * 3)],
)
def test_images_become_bytes_of_the_channels_they_have_or_are_asked_to_have(draw, mode, channels, value):
    x = decoded(files(draw("a.png", 7, mode=mode)), None, channels, None)
    assert (x.shape, x.dtype) == ((1, 4, 4, len(value)), np.uint8)
    assert x[0, 0, 0].tolist() == value


def test_16_bits_are_brought_to_8_without_cutting_off(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535, 32896]], np.uint16)).save(tmp_path / "a.png")
    assert decoded(files(tmp_path / "a.png"), None, None, None).ravel().tolist() == [0, 1, 255, 128]


def test_a_palette_with_transparency_is_read(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.save(tmp_path / "a.png", transparency=b"\x00\xff")
    assert decoded(files(tmp_path / "a.png"), None, None, None)[0, 0, 0].tolist() == [9, 8, 7]


def test_images_are_turned_as_their_camera_says(draw):
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    assert decoded(files(draw("a.jpg", size=(8, 2), exif=exif)), None, None, None).shape == (1, 8, 2, 1)


def test_a_smaller_size_takes_the_mean_and_not_a_sample(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "a.png")
    x = decoded(files(tmp_path / "a.png"), (4, 8), None, None)
    assert x.shape == (1, 4, 8, 1)
    assert (abs(x.astype(int) - 100) <= 10).all()


def test_images_that_cannot_be_read_are_named_with_the_reason(draw, tmp_path):
    good, cut, text = draw("good.png"), draw("cut.png", size=(99, 99)), tmp_path / "text.png"
    cut.write_bytes(cut.read_bytes()[:60])
    text.write_text("no image")
    (fault,) = faults_of(files(text, good, cut, tmp_path / "gone.png", draw("deep.tif", 1.0, mode="F")))
    assert fault.startswith(f"4 images cannot be read: {text} (no image format that is known), {cut} (")
    assert "No such file" in fault and "deep.tif (F pixels of more than 16 bits" in fault


def test_images_that_differ_in_size_or_channels_are_told_with_two_of_them(draw):
    images = files(
        draw("a.png", size=(4, 6)), draw("b.png", mode="RGB", size=(5, 6)), draw("c.png", size=(5, 6))
    )
    size, channels = faults_of(images)
    a, b = images.names[:2]
    assert size == f"images differ in size ({a} is 6x4, {b} is 6x5, 2 in all differ); set size: 64, say"
    assert (
        channels
        == f"images differ in channels ({a} is grey, {b} is rgb, 1 in all differ); set channels: grey or rgb"
    )
    assert decoded(images, (2, 2), "grey", None).shape == (3, 2, 2, 1)


# The cache


def kept(cache):
    return sorted(os.listdir(cache))


def test_what_was_decoded_is_mapped_from_the_cache_the_next_time(draw, tmp_path):
    images, cache = files(draw("a.png", 1), draw("b.png", 2)), tmp_path / "runs" / ".cache"
    first = decoded(images, (2, 2), None, cache)
    (file,) = kept(cache)
    assert file.startswith("images-")
    before = (cache / file).stat().st_mtime_ns
    second = decoded(images, (2, 2), None, cache)
    assert isinstance(second.base, np.memmap) and not second.flags.writeable
    assert (cache / file).stat().st_mtime_ns == before
    assert (first == second).all() and (second == decoded(images, (2, 2), None, None)).all()


def test_other_options_or_changed_files_are_decoded_anew(draw, tmp_path):
    path, cache = draw("a.png", 1), tmp_path / "cache"
    assert decoded(files(path), None, None, cache).max() == 1
    assert decoded(files(path), None, "rgb", cache).shape[-1] == 3
    assert decoded(files(path), (2, 2), None, cache).shape == (1, 2, 2, 1)
    assert len(kept(cache)) == 3
    draw("a.png", 5)
    os.utime(path, ns=(1, 1))
    assert decoded(files(path), None, None, cache).max() == 5


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_cache_is_rebuilt(draw, tmp_path, damage):
    images, cache = files(draw("a.png", 1)), tmp_path / "cache"
    decoded(images, None, None, cache)
    (file,) = cache.iterdir()
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-20] ^= 1
    file.write_bytes({"cut": data[:-9], "flip": data, "empty": b"", "text": b"no array"}[damage])
    assert (decoded(images, None, None, cache) == 1).all()
    (rebuilt,) = cache.iterdir()
    assert rebuilt.stat().st_size == len(data)


def test_several_at_once_leave_one_whole_file(draw, tmp_path):
    images, cache = files(*(draw(f"{k}.png", k) for k in range(9))), tmp_path / "cache"
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: decoded(images, (3, 3), None, cache), range(8)))
    assert all((x[:, 0, 0, 0] == np.arange(9)).all() for x in results)
    assert len(kept(cache)) == 1


def test_images_that_are_gone_are_told_with_a_cache_as_without(draw, tmp_path):
    (tmp_path / "link.png").symlink_to("nowhere.png")
    images = files(draw("good.png"), tmp_path / "link.png")
    assert faults_of(images, cache=tmp_path / "cache") == faults_of(images)


def test_a_cache_that_cannot_be_written_is_done_without(draw, tmp_path):
    (tmp_path / "file").write_text("")
    assert (decoded(files(draw("a.png", 3)), None, None, tmp_path / "file") == 3).all()
