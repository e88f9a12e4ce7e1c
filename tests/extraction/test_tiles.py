import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acluster import open_feature_sets
from acluster.extraction import MediaError, Tiles, extract, read_thumbnail, tile_descriptor
from acluster.extraction._pictures import Slide, open_picture
from acluster.extraction._rebuild import rebuilt
from acluster.extraction._tissue import TissueMap, find_tissue, otsu_threshold
from acluster.extraction._view import ROWS_TOGETHER, read_views
from acluster.extraction._views import describe_view
from tests.extraction.slides import PINK, section, write_slide

Image = pytest.importorskip("PIL.Image", reason="needs the extra slides")
pytest.importorskip("openslide", reason="needs the extra slides")
pytest.importorskip("tifffile", reason="writes the slides")


def texture(width, height, seed=0):
    """Colors that differ from pixel to pixel, and from place to place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([x * 200 / width, y * 200 / height, (x + y) * 90 / (width + height)], axis=2)
    return (ramps + rng.integers(0, 56, (height, width, 3))).astype(np.uint8)


def area_means(pixels, left, top, side, size):
    """A square part of an array, scaled by exact means over areas; white outside of the array."""
    last_x, last_y = (int(np.ceil(first + side)) for first in (left, top))
    part = pixels[int(top) : last_y, int(left) : last_x]
    white = np.full((last_y - int(top), last_x - int(left), 3), 255.0)
    white[: part.shape[0], : part.shape[1]] = part
    weights = []
    for first, length in ((top - int(top), len(white)), (left - int(left), white.shape[1])):
        edges = first + np.arange(size + 1) * side / size
        starts = np.arange(length)
        overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
        weights.append(np.maximum(overlap, 0) * size / side)
    return np.einsum("iy,yxc,jx->ijc", weights[0], white, weights[1], optimize=True)


def read(view, path):
    """The batch, the places and the warnings of a view."""
    warnings = []
    chunks = list(read_views(path, {"tiles": view}, warnings))
    if not chunks:
        return None, None, warnings
    names = chunks[0].places
    places = {name: np.concatenate([chunk.places[name] for chunk in chunks]) for name in names}
    return np.concatenate([chunk.batch for chunk in chunks]), places, warnings


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "webp"])
def test_tiles_of_an_image_are_cut_from_its_pixels(tmp_path, suffix):
    pixels = texture(130, 90)
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", pixels, **options)
    batch, places, warnings = read(Tiles(size=40), path)
    assert batch.shape == (6, 40, 40, 3)
    assert places["x"].tolist() == [0, 40, 80] * 2
    assert places["y"].tolist() == [0] * 3 + [40] * 3
    assert set(places) == {"x", "y"}
    for tile, x, y in zip(batch, *(places[name].astype(int) for name in "xy"), strict=True):
        np.testing.assert_array_equal(tile, pixels[y : y + 40, x : x + 40])
    assert warnings == []
    whole, whole_places = Tiles(size=40).read(path)
    np.testing.assert_array_equal(whole, batch)
    assert {name: x.tolist() for name, x in whole_places.items()} == {
        name: x.tolist() for name, x in places.items()
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.integers(1, 40),
    stride=st.none() | st.integers(1, 40),
    is_slide=st.booleans(),
)
def test_tiles_are_those_of_a_padded_array(tmp_path, width, height, size, stride, is_slide):
    if size > 4 * max(width, height):
        return
    pixels = texture(width, height)
    if is_slide:
        path = write_slide(tmp_path / "slide.tif", pixels)
    else:
        path = save(tmp_path / "image.png", pixels)
    padded = np.full((height + 100, width + 100, 3), 255, np.uint8)
    padded[:height, :width] = pixels
    batch, places, _ = read(Tiles(size=size, stride=stride), path)
    step = stride or size
    most = min(step, size) / 2  # by which a tile may exceed the image
    corners = [
        (left, top)
        for top in range(0, height + step, step)
        for left in range(0, width + step, step)
        if all(a == 0 or a + size - n <= most for a, n in ((top, height), (left, width)))
    ]
    found = [*zip(places["x"], places["y"], strict=True)]
    assert found == corners
    for tile, (x, y) in zip(batch, found, strict=True):
        x, y = int(x), int(y)
        np.testing.assert_array_equal(tile, padded[y : y + size, x : x + size])


@pytest.mark.parametrize("n_levels", [1, 3])
@pytest.mark.parametrize("mpp", [0.25, 0.4, 0.5, 0.77, 1.0, 3.0])
def test_tiles_of_a_slide_are_means_of_its_finest_level(tmp_path, mpp, n_levels, monkeypatch):
    monkeypatch.setattr("acluster.extraction._pictures._BAND_PIXELS", 1000)  # several bands
    y, x = np.mgrid[:760, :1000]
    waves = np.stack([np.sin(x / 29), np.sin(y / 27), np.sin((x + y) / 31)], axis=2)
    pixels = (127 + 120 * waves).astype(np.uint8)
    path = write_slide(tmp_path / "s.tif", pixels, 0.25, n_levels)
    batch, places, warnings = read(Tiles(size=30, mpp=mpp), path)
    side = 30 * mpp / 0.25
    assert places["mpp"].tolist() == pytest.approx([0.25] * len(batch))
    assert places["x"][1] == round(side)
    assert len(batch) == round(1000 / side) * round(760 / side)
    for tile, x, y in zip(batch, places["x"], places["y"], strict=True):
        expected = area_means(pixels, x, y, side, 30)
        if max(x + side - 1000, y + side - 760) > 0:
            continue  # Interpolation overshoots at the edge of the image.
        # The levels are rounded, a tile covers whole pixels of its level, and is interpolated.
        assert np.abs(tile - expected).mean() < 2
        assert np.abs(tile - expected).max() < 12
    assert warnings == []


@pytest.mark.parametrize("n_levels", [1, 3])
@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_tiles_of_whole_factors_are_exact_to_rounding(tmp_path, n_levels, factor):
    pixels = texture(1024, 768)
    path = write_slide(tmp_path / "s.tif", pixels, 0.25, n_levels)
    batch, places, _ = read(Tiles(size=32, mpp=0.25 * factor), path)
    for tile, x, y in zip(batch, places["x"], places["y"], strict=True):
        assert np.abs(tile - area_means(pixels, x, y, 32 * factor, 32)).max() <= 2


def test_tiles_are_read_from_the_coarsest_level_that_is_fine_enough(tmp_path):
    with open_picture(write_slide(tmp_path / "s.tif", texture(800, 800), 0.25, 4)) as picture:
        assert [picture._level(scale) for scale in (0.5, 1, 1.9, 1.99, 2, 4.1, 100)] == [
            0, 0, 0, 1, 1, 2, 3,
        ]  # fmt: skip


def test_tiles_of_an_image_use_its_resolution(tmp_path):
    pixels = texture(200, 100)
    path = save(tmp_path / "a.png", pixels, dpi=(25400 / 0.5,) * 2)
    batch, places, _ = read(Tiles(size=25, mpp=1), path)
    assert len(batch) == 8
    np.testing.assert_allclose(places["mpp"], 0.5, rtol=1e-3)
    assert np.abs(batch[1] - area_means(pixels, 50, 0, 50, 25)).max() <= 1


def test_tiles_that_are_enlarged_have_a_warning(tmp_path):
    path = write_slide(tmp_path / "s.tif", texture(200, 100), 0.5)
    batch, places, warnings = read(Tiles(size=64, mpp=0.25), path)
    assert batch.shape == (18, 64, 64, 3)
    assert places["x"].max() == 160
    assert warnings == ["The file has 0.5 microns per pixel; it is enlarged to 0.25."]


@pytest.mark.parametrize(
    ("mpp", "view", "message"),
    [
        (
            None,
            Tiles(mpp=0.5),
            "does not tell its microns per pixel, which mpp=0.5 needs. Write its resolution to the "
            r"file, or leave out mpp \(--mpp\) and choose a size \(--size\) in pixels of the files",
        ),
        (353.0, Tiles(mpp=0.5), "says that it has 353 microns per pixel, too many for mpp=0.5"),
        (0.25, Tiles(size=100, mpp=2.5), "200 x 100 pixels, and a tile covers 1,000 x 1,000"),
        (None, Tiles(size=900), "Choose a smaller size."),
    ],
)
def test_tiles_of_another_resolution_are_errors(tmp_path, mpp, view, message):
    with pytest.raises(MediaError, match=message):
        read(view, write_slide(tmp_path / "s.tif", texture(200, 100), mpp))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_images_are_turned_upright(tmp_path, orientation, suffix):
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32] = (255, 0, 0)  # at the upper left
    upright[24:, 32:] = (0, 0, 255)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: np.rot90(upright, 2), 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: np.rot90(upright.swapaxes(0, 1), 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    options = {"subsampling": 0} if suffix == "jpg" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", np.ascontiguousarray(stored), exif=exif, **options)
    batch, _, _ = read(Tiles(size=48), path)
    assert np.abs(batch[0].astype(int) - upright[:, :48]).max() < 30


def as_mode(mode):
    """An image in a mode, and the grey or color values of its halves."""
    colors = np.zeros((32, 32, 3), np.uint8)
    colors[:, :16], colors[:, 16:] = (250, 130, 20), (10, 60, 200)
    image = Image.fromarray(colors)
    if mode in ("RGB", "CMYK", "YCbCr", "P"):
        image = image.quantize(4) if mode == "P" else image.convert(mode)
        return image, [(250, 130, 20), (10, 60, 200)]
    if mode == "L":
        return image.convert("L"), [[image.convert("L").getpixel((x, 0))] * 3 for x in (0, 20)]
    if mode == "1":
        bits = Image.fromarray(np.where(colors[..., :1] > 99, 255, 0)[..., 0].astype(np.uint8))
        return bits.convert("1"), [(255, 255, 255), (0, 0, 0)]
    if mode == "I;16":
        return Image.fromarray(colors[..., 0].astype(np.uint16) * 256 + 200), [[250] * 3, [10] * 3]
    image.putalpha(Image.fromarray(np.where(colors[..., 0] > 99, 0, 51).astype(np.uint8)))
    faint = tuple(round(0.8 * 255 + 0.2 * color) for color in (10, 60, 200))
    if mode == "RGBA":
        return image, [(255, 255, 255), faint]
    grey = round(0.8 * 255 + 0.2 * image.convert("L").getpixel((20, 0)))
    return image.convert("LA"), [(255, 255, 255), [grey] * 3]


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "I;16", "RGBA", "LA"])
def test_images_of_every_mode_become_rgb_over_white(tmp_path, mode):
    image, halves = as_mode(mode)
    assert image.mode == mode
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    (tile,), _, warnings = read(Tiles(size=32), path)
    np.testing.assert_allclose(tile[5, 5], halves[0], atol=2)
    np.testing.assert_allclose(tile[5, 28], halves[1], atol=2)
    assert warnings == []


def test_palette_with_a_transparent_color_is_over_white(tmp_path):
    image = Image.fromarray(np.repeat(np.uint8([[0, 1]]), 16, axis=1).repeat(32, 0), "L")
    image = image.convert("P")
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.save(tmp_path / "a.gif", transparency=0)
    (tile,), _, _ = read(Tiles(size=32), tmp_path / "a.gif")
    assert tile[0, 0].tolist() == [255, 255, 255]
    assert tile[0, 31].tolist() == [200, 0, 0]


def test_dark_image_of_16_bits_has_a_warning(tmp_path):
    save(tmp_path / "a.png", np.full((32, 32), 4000, np.uint16))
    _, _, warnings = read(Tiles(size=32), tmp_path / "a.png")
    assert warnings == ["The file is dark: its largest value is 4,000 of 65,535. Scale it to 16 "
                        "bits."]  # fmt: skip


def test_pages_after_the_first_are_left_out_with_a_warning(tmp_path):
    pages = [Image.fromarray(texture(32, 32, seed)) for seed in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    batch, _, warnings = read(Tiles(size=32), tmp_path / "a.tif")
    np.testing.assert_array_equal(batch[0], texture(32, 32, 0))
    assert warnings == ["The file has 3 pages, of which only the first is read."]


def encoded(kind):
    buffer = io.BytesIO()
    Image.fromarray(texture(300, 200)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "webp", "tiff"])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.9])
def test_truncated_images_fail_by_name(tmp_path, kind, share):
    data = encoded(kind)
    path = tmp_path / f"torn.{kind}"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(MediaError, match=rf"torn\.{kind} (is empty|cannot be read as an image: )"):
        read(Tiles(size=32), path)


@pytest.mark.parametrize("name", ["a.svs", "a.ndpi", "a.mrxs", "a.tif", "a.png", "a.dcm", "a.czi"])
def test_files_of_other_content_fail_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is a text " * 100)
    with pytest.raises(MediaError, match=name):
        read(Tiles(), tmp_path / name)


def test_truncated_slide_fails_by_name(tmp_path):
    data = write_slide(tmp_path / "whole.tif", texture(500, 500)).read_bytes()
    for share in (0.3, 0.8, 0.95):
        (tmp_path / "torn.tif").write_bytes(data[: int(share * len(data))])
        with pytest.raises(MediaError, match=r"torn\.tif cannot be (read|decoded)"):
            read(Tiles(size=64), tmp_path / "torn.tif")


def test_damaged_tile_of_a_slide_fails_by_name(tmp_path):
    path = write_slide(tmp_path / "s.tif", texture(500, 500))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 9000] = bytes(9000)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"s\.tif cannot be decoded at x=\d+, y=\d+ of level 0"):
        read(Tiles(size=64), path)


def test_image_with_pixels_of_32_bits_fails(tmp_path):
    save(tmp_path / "a.tif", np.ones((32, 32), np.float32))
    with pytest.raises(MediaError, match="has pixels of 32 bits, whose range is not known"):
        read(Tiles(size=32), tmp_path / "a.tif")


@pytest.mark.parametrize("most", [5_000, 10_000])
def test_decompression_bomb_fails_by_name(tmp_path, monkeypatch, most):
    save(tmp_path / "bomb.png", np.zeros((110, 110, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    with pytest.raises(MediaError, match=r"bomb\.png has more pixels than Pillow decodes at once"):
        read(Tiles(size=32), tmp_path / "bomb.png")


def test_other_formats_with_the_suffix_of_an_image_are_not_opened(tmp_path):
    Image.fromarray(texture(32, 32)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(MediaError, match=r"a\.png cannot be read as an image"):
        read(Tiles(size=32), tmp_path / "a.png")


def test_file_that_is_no_picture_lacks_the_modality(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    assert Tiles().read(tmp_path / "a.wav") is None


class FakeSlide:
    """A slide of which only the part within its bounds was scanned."""

    dimensions = (1000, 800)
    level_downsamples = (1.0,)
    level_dimensions = ((1000, 800),)
    properties = {  # noqa: RUF012
        "openslide.bounds-x": "300", "openslide.bounds-y": "200",
        "openslide.bounds-width": "200", "openslide.bounds-height": "100",
        "openslide.mpp-x": "0.25", "openslide.mpp-y": "0.3",
    }  # fmt: skip

    def read_region(self, corner, level, size):
        pixels = np.zeros((size[1], size[0], 4), np.uint8)
        pixels[..., 0], pixels[..., 1], pixels[..., 3] = corner[0] // 4, corner[1] // 4, 255
        return Image.fromarray(pixels)

    def close(self):
        pass


def test_tiles_lie_within_the_bounds_of_a_slide(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "acluster.extraction._tiles.open_picture", lambda path: Slide(FakeSlide(), path)
    )
    batch, places, warnings = read(Tiles(size=100), tmp_path / "a.mrxs")
    assert [*zip(places["x"], places["y"], strict=True)] == [(300, 200), (400, 200)]
    assert batch[:, 0, 0].tolist() == [[75, 50, 0], [100, 50, 0]]
    assert warnings == ["The file has 0.25 microns per pixel in x and 0.3 in y."]


def test_tiles_are_read_in_chunks(tmp_path, monkeypatch):
    n_read = [0]
    tile = Slide.tile
    monkeypatch.setattr(Slide, "tile", lambda *given: n_read.__setitem__(0, n_read[0] + 1)
                        or tile(*given))  # fmt: skip
    path = write_slide(tmp_path / "s.tif", texture(700, 700))
    chunks = read_views(path, {"tiles": Tiles(size=16)}, [])
    assert len(next(chunks).batch) == ROWS_TOGETHER == n_read[0]
    sizes = [len(chunk.batch) for chunk in chunks]
    assert set(sizes[:-1]) == {ROWS_TOGETHER}
    assert ROWS_TOGETHER + sum(sizes) == 44**2
    monkeypatch.setattr("acluster.extraction._tiles.BYTES_TOGETHER", 16 * 16 * 3 * 5)
    assert len(next(read_views(path, {"tiles": Tiles(size=16)}, [])).batch) == 5


@pytest.mark.parametrize("name", ["coffee", "ihc", "moon", "page", "retina", "camera"])
def test_otsu_threshold_equals_that_of_scikit_image(name):
    skimage = pytest.importorskip("skimage", reason="needs the extra flow")
    from skimage.filters import threshold_otsu
    from skimage.io import imread

    folder = Path(skimage.__file__).parent / "data"
    [path] = folder.glob(f"{name}.*")
    values = imread(path)
    values = values.max(axis=2) - values.min(axis=2) if values.ndim == 3 else values
    assert otsu_threshold(values) == threshold_otsu(values)


def test_otsu_threshold_of_one_value():
    assert otsu_threshold(np.full((4, 4), 7, np.uint8)) == 7


@given(
    seed=st.integers(0, 999), scale=st.floats(0.5, 9), x=st.floats(-9, 60), y=st.floats(-9, 60),
    side=st.floats(0.5, 40),
)  # fmt: skip
def test_tissue_map_has_the_share_of_a_square(seed, scale, x, y, side):
    pixels = np.full((7, 5, 3), 255, np.uint8)
    pixels[np.random.default_rng(seed).random((7, 5)) < 0.5] = (200, 90, 160)
    shares = TissueMap(pixels, scale).shares(np.array([x]), y, side)
    expected = 0.0
    for row, column in zip(*np.nonzero(find_tissue(pixels)), strict=True):
        width = min(x + side, (column + 1) * scale) - max(x, column * scale)
        height = min(y + side, (row + 1) * scale) - max(y, row * scale)
        expected += max(width, 0) * max(height, 0)
    assert shares[0] == pytest.approx(expected / side**2, abs=1e-9)


@pytest.mark.parametrize("mpp", [None, 0.25, 1.0])
@pytest.mark.parametrize("least", [0.1, 0.5, 0.99])
def test_tiles_have_the_least_share_of_tissue(tmp_path, mpp, least):
    pixels, _ = section(0)
    path = write_slide(tmp_path / "s.tif", pixels, 0.25, 3)
    size = 20 if mpp == 1 else 50
    side = 80 if mpp == 1 else 50
    _, places, warnings = read(Tiles(size=size, mpp=mpp, tissue=least), path)
    _, everywhere, _ = read(Tiles(size=size, mpp=mpp), path)
    y, x = np.mgrid[:700, :900]
    ellipse = ((x / 900 - 0.5) / 0.42) ** 2 + ((y / 700 - 0.5) / 0.4) ** 2 < 1
    chosen = {*zip(places["x"], places["y"], strict=True)}
    for x, y in zip(everywhere["x"], everywhere["y"], strict=True):
        share = ellipse[int(y) : int(y) + side, int(x) : int(x) + side].sum() / side**2
        if abs(share - least) > 0.03:
            assert ((x, y) in chosen) == (share > least)
    assert 0 < len(chosen) < len(everywhere["x"])
    assert warnings == []


def test_find_tissue_of_a_real_section():
    """Two thirds of the section of scikit-image are stained, and nothing of a page is."""
    skimage = pytest.importorskip("skimage", reason="needs the extra flow")
    from skimage.io import imread

    folder = Path(skimage.__file__).parent / "data"
    assert 0.6 < find_tissue(imread(folder / "ihc.png")[..., :3]).mean() < 0.75
    page = np.repeat(imread(folder / "page.png")[..., None], 3, axis=2)
    assert not find_tissue(page).any()


def test_find_tissue_of_nothing_but_glass_or_tissue():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 6, (100, 100, 3))
    assert not find_tissue((240 + noise).astype(np.uint8)).any()
    assert find_tissue((np.array(PINK) + noise).astype(np.uint8)).all()


def test_image_without_tissue_is_missing_with_a_warning(tmp_path):
    write_slide(tmp_path / "glass.tif", np.full((200, 200, 3), 240, np.uint8))
    batch, _, warnings = read(Tiles(size=50, tissue=0.5), tmp_path / "glass.tif")
    assert batch is None
    assert warnings == [
        "No tile of the file has at least 50% of tissue. Pass a smaller share; 0 keeps all tiles."
    ]
    assert Tiles(size=50, tissue=0.5).read(tmp_path / "glass.tif") is None


def test_extract_of_slides_writes_places_and_names_those_without_tissue(tmp_path):
    (tmp_path / "slides").mkdir()
    for number in range(3):
        write_slide(tmp_path / "slides" / f"{number}.tif", section(number)[0], 0.25, 2)
    write_slide(tmp_path / "slides" / "glass.tif", np.full((99, 99, 3), 240, np.uint8))
    view = Tiles(size=48, mpp=0.5, tissue=0.5)
    report = extract(tmp_path / "slides", tmp_path / "s.zarr", {"tiles": (view, tile_descriptor)})
    assert report.n_items == 3
    assert list(report.failed) == ["glass.tif"]
    assert "No tile of the file has at least 50% of tissue" in report.failed["glass.tif"]
    X = open_feature_sets(tmp_path / "s.zarr")
    batch, places, _ = read(view, tmp_path / "slides" / "1.tif")
    np.testing.assert_allclose(X["tiles"][1], tile_descriptor(batch), atol=1e-3)
    assert X["tiles"].places.column_names == ("x", "y", "mpp")
    np.testing.assert_array_equal(X["tiles"].places[1], np.stack([*places.values()], axis=1))


def test_tiles_are_made_again_from_their_description():
    view = Tiles(size=96, mpp=0.5, stride=48, tissue=0.25)
    described = {"view": describe_view(view), "backbone": "acluster.extraction:tile_descriptor"}
    assert described["view"] == {
        "kind": "Tiles", "size": 96, "mpp": 0.5, "stride": 48, "tissue": 0.25,
    }  # fmt: skip
    assert rebuilt({"tiles": described})["tiles"][0] == view
    with pytest.raises(ValueError, match=r"stride=2\.5"):
        rebuilt({"tiles": {**described, "view": {"kind": "Tiles", "stride": 2.5}}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size=0 is not an integer above 0"),
        ({"mpp": -1}, "mpp=-1 is not a number above 0"),
        ({"stride": 0}, "stride=0 is not an integer above 0"),
        ({"stride": 1.5}, "stride=1.5 is not an integer"),
        ({"tissue": -0.1}, "tissue=-0.1 is not a number of at least 0"),
        ({"tissue": 50}, "tissue=50 is a share, and must be at most 1"),
    ],
)
def test_tiles_reject_invalid_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Tiles(**settings)


@pytest.mark.parametrize("n_levels", [1, 3])
def test_read_thumbnail_has_the_scale_of_its_pixels(tmp_path, n_levels, monkeypatch):
    monkeypatch.setattr("acluster.extraction._pictures._BAND_PIXELS", 3000)
    pixels = texture(1000, 600)
    found, scale = read_thumbnail(write_slide(tmp_path / "s.tif", pixels, 0.25, n_levels), 130)
    assert scale == 8
    assert found.shape == (75, 125, 3)
    expected = pixels.reshape(75, 8, 125, 8, 3).mean(axis=(1, 3))
    assert np.abs(found - expected).max() <= 2
    same, scale = read_thumbnail(save(tmp_path / "a.png", pixels), 5000)
    assert scale == 1
    np.testing.assert_array_equal(same, pixels)


def test_read_thumbnail_rejects_other_files(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(MediaError, match=r"a\.txt is not an image or a slide"):
        read_thumbnail(tmp_path / "a.txt")


@pytest.mark.parametrize("longest", [0, -5, np.nan])
def test_read_thumbnail_rejects_a_size_below_1(tmp_path, longest):
    path = save(tmp_path / "a.png", texture(20, 10))
    with pytest.raises(ValueError, match=rf"longest={longest} .* must be at least 1"):
        read_thumbnail(path, longest)


@pytest.mark.parametrize("name", ["gone", "gone.mp4", "gone.svs"])
def test_pictures_that_do_not_exist_are_not_called_another_kind_of_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        read_thumbnail(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=name):
        Tiles().read(tmp_path / name)
