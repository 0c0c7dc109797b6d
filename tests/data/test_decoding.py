"""Image files as people have them: every mode, depth, orientation and fault that is read, corrected or refused."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from harness.core.errors import UserError
from harness.data import decoding
from harness.data.decoding import decode, inspect, size_in_header

SIDEWAYS = (5, 6, 7, 8)


@pytest.mark.parametrize(
    ("mode", "suffix", "colour", "expected"),
    [
        ("L", "png", 90, (90, 90, 90)),
        ("1", "png", 1, (255, 255, 255)),
        ("LA", "png", (70, 0), (70, 70, 70)),
        ("RGBA", "png", (10, 20, 30, 0), (10, 20, 30)),
        ("CMYK", "jpg", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", "jpg", (255, 128, 128), (255, 255, 255)),
        ("RGB", "png", (1, 2, 3), (1, 2, 3)),
        ("I;16", "png", 257 * 77, (77, 77, 77)),
        ("I;16", "tif", 65535, (255, 255, 255)),
        ("F", "tif", 0.5, (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, suffix: str, colour: object, expected: tuple[int, ...]
) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.new(mode, (5, 4), colour).save(path)
    image = decode(path)
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    assert np.abs(image.astype(int) - expected).max() <= 2


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (200, 100, 50)).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png")[0, 0].tolist() == [200, 100, 50]


def test_sixteen_bits_are_rounded_over_the_whole_range(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 13, dtype=np.uint16)[None]
    Image.fromarray(values).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png")[0, :, 0].tolist() == np.rint(values[0] / 257).astype(int).tolist()


@pytest.mark.parametrize("values", [[0.0, 2.0], [-0.1, 0.5], [0.0, float("nan")], [0.0, 65535.0]])
def test_floats_of_no_known_range_are_refused(tmp_path: Path, values: list[float]) -> None:
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif has more than 8 bits a channel and values from .*; convert it"):
        decode(tmp_path / "x.tif")


def test_integers_of_32_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match="values from 0 to 70000, in no range"):
        decode(tmp_path / "x.tif")


def oriented(path: Path, orientation: int, size: tuple[int, int] = (20, 10)) -> Image.Image:
    """Write an image of four colours with an EXIF orientation; the picture as it is stored."""
    stored = Image.new("RGB", (2, 2))
    for place, colour in zip(((0, 0), (1, 0), (0, 1), (1, 1)), ("red", "lime", "blue", "white"), strict=True):
        stored.paste(colour, (*place, place[0] + 1, place[1] + 1))
    stored = stored.resize(size, Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    return stored


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_an_orientation_is_applied_as_viewers_do(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    oriented(path, orientation)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode(path), expected)
    assert inspect(path)[0] == expected.shape[:2] == size_in_header(path)
    assert inspect(path)[1] == ([] if orientation == 1 else [decoding.UNCONFIRMED])


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_annotated_size_tells_whether_stored_pixels_are_meant(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "x.jpg"
    stored = oriented(path, orientation)
    kept = decode(path, (10, 20))
    assert kept.shape == (10, 20, 3)
    if orientation in SIDEWAYS:  # only the stored pixels have that size
        assert np.abs(kept[0, 0].astype(int) - np.array(stored)[0, 0]).max() < 30  # JPEG
        assert np.abs(kept[-1, 0].astype(int) - np.array(stored)[-1, 0]).max() < 30
        assert inspect(path, (10, 20))[1] == [decoding.AS_STORED]
        assert decode(path, (20, 10)).shape == (20, 10, 3)
        assert inspect(path, (20, 10))[1] == [decoding.TURNED]
        assert decode(path, (99, 99)).shape == (20, 10, 3)  # of neither size, which the data set refuses
    else:
        assert inspect(path, (10, 20))[1] == [decoding.UNCONFIRMED]


def test_a_square_image_is_turned(tmp_path: Path) -> None:
    stored = oriented(tmp_path / "x.png", 6, (16, 16))
    turned = np.array(stored.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(decode(tmp_path / "x.png", (16, 16)), turned)


def test_an_orientation_behind_the_pixels_of_a_png_counts_without_a_stated_size(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    oriented(path, 6)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    length = 12 + int.from_bytes(content[start : start + 4])
    exif, rest = content[start : start + length], content[:start] + content[start + length :]
    path.write_bytes(rest[:-12] + exif + rest[-12:])  # before IEND
    assert size_in_header(path) == decode(path).shape[:2] == (20, 10)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_there_is_none_of_means_nothing(tmp_path: Path, value: int) -> None:
    oriented(tmp_path / "x.jpg", value)
    assert decode(tmp_path / "x.jpg").shape == (10, 20, 3)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def deep_colour(pixel: tuple[int, int, int]) -> bytes:
    """A PNG of 5x4 pixels with 16 bits a channel, which Pillow reads and does not write."""
    row = b"\0" + struct.pack(">3H", *pixel) * 5
    header = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_what_is_odd_about_an_image_is_said(tmp_path: Path) -> None:
    def kinds(name: str) -> list[str]:
        return inspect(tmp_path / name)[1]

    Image.new("RGBA", (5, 4), (1, 2, 3, 255)).save(tmp_path / "opaque.png")
    Image.new("RGBA", (5, 4), (1, 2, 3, 200)).save(tmp_path / "glass.png")
    palette = Image.new("P", (5, 4))
    palette.save(tmp_path / "palette.png", transparency=0)
    Image.new("CMYK", (5, 4)).save(tmp_path / "print.jpg")
    Image.fromarray(np.full((4, 5), 2**15, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((4, 5), 2**12, np.uint16)).save(tmp_path / "dark.png")
    Image.fromarray(np.zeros((4, 5), np.float32)).save(tmp_path / "float.tif")
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime")]
    for name in ("film.gif", "film.tif", "film.webp", "film.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert kinds("opaque.png") == []
    assert kinds("glass.png") == kinds("palette.png") == [decoding.TRANSPARENT]
    assert kinds("print.jpg") == [decoding.CMYK]
    assert kinds("deep.png") == [decoding.SIXTEEN]
    assert kinds("dark.png") == [decoding.SIXTEEN, decoding.DARK]
    (tmp_path / "colour.png").write_bytes(deep_colour((2**15, 2**15, 0)))
    (tmp_path / "night.png").write_bytes(deep_colour((2**12, 0, 0)))
    assert kinds("colour.png") == [decoding.DEEP_COLOUR]
    assert kinds("night.png") == [decoding.DEEP_COLOUR, decoding.DARK]
    assert decode(tmp_path / "colour.png")[0, 0].tolist() == [128, 128, 0]
    assert kinds("float.tif") == [decoding.FLOAT]
    for name in ("film.gif", "film.tif", "film.webp", "film.png"):
        assert kinds(name) == [decoding.FRAMES], name
        assert np.abs(decode(tmp_path / name)[0, 0].astype(int) - (255, 0, 0)).max() < 5


def test_what_is_damaged_behind_the_first_frame_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.new("RGB", (5, 4), (1, 2, 3)).save(path)
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[4:8], "little")
    after = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    content[after : after + 4] = b"\x6b\0\0\0"  # where a further page would be
    path.write_bytes(content)
    assert inspect(path)[0] == decode(path).shape[:2] == (4, 5)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_a_truncated_image_is_found_without_reading_it_at_full_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)).save(path)
    size, _, content = inspect(path)
    assert (size, content) == ((200, 300), path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    for look in (decode, inspect):
        with pytest.raises(UserError, match=rf"x\.{suffix} cannot be decoded: .*; replace or remove it"):
            look(path)


def test_faults_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for look in (decode, inspect):
        with pytest.raises(UserError, match=r"x\.png is missing"):
            look(path)
    path.write_bytes(b"")
    for look in (decode, inspect):
        with pytest.raises(UserError, match=r"x\.png cannot be decoded: it is no image") as caught:
            look(path)
        assert "BytesIO" not in str(caught.value)
    path.write_text("words")
    with pytest.raises(UserError, match=r"x\.png cannot be decoded: it is no image"):
        inspect(path)
    with pytest.raises(UserError, match="cannot be decoded"):
        decode(tmp_path)


@pytest.mark.parametrize("side", [20, 40])  # Pillow warns above its limit and refuses above twice the limit
def test_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    Image.new("RGB", (side, side)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    for look in (decode, inspect):
        with pytest.raises(UserError, match="more than 300 pixels"):
            look(tmp_path / "x.png")


def test_megabytes_of_text_in_a_png_are_nobodys_pixels(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / "x.png")
    plain = (tmp_path / "x.png").read_bytes()
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 3_000_000))
    (tmp_path / "x.png").write_bytes(plain[:33] + text + plain[33:])
    assert decode(tmp_path / "x.png")[0, 0].tolist() == [1, 2, 3]
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 100_000_000))
    (tmp_path / "x.png").write_bytes(plain[:33] + bomb + plain[33:])
    with pytest.raises(UserError, match="cannot be decoded"):
        decode(tmp_path / "x.png")


def test_the_size_is_read_from_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown on its side
    Image.effect_noise((300, 200), 80).save(path, exif=exif)
    assert size_in_header(path) == (300, 200)
    path.write_bytes(path.read_bytes()[:2000])  # the rest is missing
    assert size_in_header(path) == (300, 200)
    with pytest.raises(UserError, match="cannot be decoded"):
        decode(path)


def test_a_bad_header_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    Image.new("RGB", (20, 20)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    for name, message in (
        ("text.jpg", "cannot be decoded"),
        ("none.jpg", "is missing"),
        ("pipe.jpg", "is a folder or a device"),
        ("large.png", "more than 300 pixels"),
    ):
        with pytest.raises(UserError, match=message):
            size_in_header(tmp_path / name)
