"""From images and slides to predictions and heat maps, by commands."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import acluster
from acluster.command_line import main
from acluster.extraction import Tiles, tile_descriptor
from tests.extraction.slides import section, write_slide

Image = pytest.importorskip("PIL.Image", reason="needs the extra slides")
pytest.importorskip("openslide", reason="needs the extra slides")
pytest.importorskip("tifffile", reason="writes the slides")

N_SLIDES, SIDE = 24, 48
MAPPER = "max_iter=60 learning_rate=0.01 n_attended=null cluster_size=4"


def kind_of(number):
    return "tumor" if number % 2 else "normal"


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """A folder of slides, those with odd numbers with a tumor, and the centers of the tumors."""
    folder = tmp_path_factory.mktemp("slides")
    centers = {}
    for number in range(N_SLIDES):
        pixels, centers[number] = section(number, kind_of(number))
        write_slide(folder / f"slide_{number}.tif", pixels, 0.25, 2)
    return folder, centers


@pytest.fixture
def here(tmp_path, monkeypatch, slides):
    """The current folder, with the slides in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(slides[0], "slides")
    return tmp_path


def run(command, capsys, fails=False):
    assert main(command.split()) == int(fails), capsys.readouterr().err
    return capsys.readouterr()


def write_table():
    rows = [f"case_{i // 2 % 6},slide_{i},{kind_of(i)},train" for i in range(N_SLIDES)]
    Path("clam.csv").write_text("\n".join(["case_id,slide_id,label,split", *rows, "c,no,x,none"]))


def ranks_of_tumor(attention, places, center):
    """The area under the ROC curve of the mean attention against the tiles within the tumor."""
    x, y = places.T[:2] + SIDE / 2
    distance = np.hypot(x - center[0], y - center[1])
    values = attention.mean(axis=1)
    inside, outside = values[distance < 80], values[distance > 150]
    return np.mean(inside[:, None] > outside)


def test_five_commands_from_slides_of_clam_to_a_heat_map(here, slides, capsys, monkeypatch):
    h5py = pytest.importorskip("h5py", reason="needs the extra formats")
    Path("h5_files").mkdir()
    for number in range(N_SLIDES):
        batch, places = Tiles(size=SIDE, tissue=0.5).read(f"slides/slide_{number}.tif")
        with h5py.File(f"h5_files/slide_{number}.h5", "w") as file:
            file["features"] = tile_descriptor(batch)
            file["coords"] = np.stack([places["x"], places["y"]], axis=1).astype(np.int64)
    write_table()
    figures = []
    save = "matplotlib.figure.Figure.savefig"
    from matplotlib.figure import Figure

    savefig = Figure.savefig
    monkeypatch.setattr(save, lambda own, *a, **k: (figures.append(own), savefig(own, *a, **k)))
    roles = "--id slide_id --label label --group case_id --split split=train"
    for command in (
        f"convert h5_files slides.zarr --labels clam.csv {roles}",
        "info slides.zarr",
        f"fit slides.zarr --out m --group --hold-out 0.34 --set {MAPPER}",
        "predict m slides.zarr --out predictions.csv",
        "attention m slides.zarr slide_3 --png map.png --thumbnail slides",
    ):
        output = run(command, capsys)
        if command.startswith("fit"):
            assert "held-out items: 1.0000" in output.out
    assert output.err == ""
    with Image.open("map.png") as picture:
        assert picture.width > 500
    below, drawn = figures[0].axes[0].images
    np.testing.assert_allclose(below.get_extent(), (0, 900, 700, 0))
    X = acluster.open_feature_sets("slides.zarr")
    item = [*X.id].index("slide_3")
    left, right, bottom, top = drawn.get_extent()
    x, y = X.places[item].T
    assert (left, right, top, bottom) == (
        x.min(), x.max() + SIDE, y.min(), y.max() + SIDE,
    )  # fmt: skip
    attention = acluster.load("m").attention_weights(X[[item]])[0]
    assert ranks_of_tumor(attention, X.places[item], slides[1][3]) > 0.9


def test_slides_to_predictions_and_maps(here, slides, capsys):
    write_table()
    Path("new").mkdir()
    for number in (22, 23):
        Path(f"slides/slide_{number}.tif").rename(f"new/slide_{number}.tif")
    names = [path.name for path in Path("slides").iterdir()]
    rows = [f"{name},{kind_of(int(name[6:-4]))}" for name in names]
    Path("labels.csv").write_text("\n".join(["id,label", *rows]))
    view = f"--tiles descriptor --size {SIDE // 2} --mpp 0.5 --tissue 0.5"
    run(f"extract slides s.zarr --labels labels.csv {view}", capsys)
    assert "tiles:" in run("info s.zarr", capsys).out
    run(f"fit s.zarr --out m --set {MAPPER}", capsys)
    output = run("predict m new/slide_22.tif new/slide_23.tif", capsys)
    predicted = [row["prediction"] for row in csv.DictReader(output.out.splitlines())]
    assert predicted == ["normal", "tumor"]
    run("attention m s.zarr slide_5.tif --png map.png --thumbnail slides/slide_5.tif", capsys)
    X = acluster.open_feature_sets("s.zarr")
    item = [*X.id].index("slide_5.tif")
    attention = acluster.load("m").attention_weights(X[[item]])[0]["tiles"]
    assert ranks_of_tumor(attention, X["tiles"].places[item], slides[1][5]) > 0.9


def test_images_in_folders_to_predictions(here, capsys):
    rng = np.random.default_rng(0)
    for number in range(12):
        kind = "striped" if number % 2 else "plain"
        pixels = rng.integers(90, 160, (120 + 10 * number, 150, 3)).astype(np.uint8)
        if kind == "striped":
            pixels[:, ::8] = 20
        Path("images", kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(f"images/{kind}/{number}.png")
    Path("images/plain/torn.jpg").write_bytes(b"\xff\xd8 torn")
    shutil.move("images/striped/11.png", "new.png")
    output = run("extract images s.zarr --labels folders --tiles descriptor --size 64", capsys)
    assert output.out.startswith("11 items, 11 of them new; 1 failed")
    assert "failed: plain/torn.jpg: " in output.err
    run("fit s.zarr --out m --set max_iter=30", capsys)
    assert run("predict m new.png", capsys).out.split() == ["id,prediction", "new.png,striped"]
    warned = run("attention m s.zarr plain/2.png --png a.png --thumbnail images", capsys).err
    assert "each unit attends to 5 local features at most" in warned
    assert "--set n_attended=null" in warned


@pytest.fixture
def placed(here):
    """A store with x and y of one modality, a model of it, and pictures of its items."""
    rng = np.random.default_rng(0)
    grid = {"x": np.tile([0, 400, 800], 2), "y": np.repeat([0, 400], 3)}
    X = acluster.FeatureSets.from_arrays(rng.normal(size=(8, 6, 4)), places=[grid] * 8)
    y = [0, 1] * 4
    clf = acluster.AttentionClusterClassifier(max_iter=2, n_attended=None).fit(X, y)
    clf.save("m")
    ids = ["a/1", *(f"b{i}" for i in range(7))]
    acluster.save_feature_sets("s.zarr", X, id=ids)
    Path("pictures/a").mkdir(parents=True)
    for name, size in (("a/1.png", (1200, 800)), ("b0.jpg", (120, 80)), ("b1.png", (1200, 90)),
                       ("b2.png", (9, 9)), ("b2.jpg", (9, 9))):  # fmt: skip
        Image.new("RGB", size, "pink").save(f"pictures/{name}")
    return here


@pytest.mark.parametrize(
    ("item", "options", "message"),
    [
        ("a/1", "--png a.png --thumbnail pictures", ""),
        ("0", "--png a.png --thumbnail pictures", ""),
        ("a/1", "--thumbnail=pictures/a/1.png --png=a.png", ""),
        ("b0", "--png a.png --thumbnail pictures/b0.jpg --scale 10", ""),
    ],
)
def test_attention_draws_over_the_picture_of_the_item(placed, capsys, item, options, message):
    assert run(f"attention m s.zarr {item} {options}", capsys).err == message
    with Image.open("a.png") as drawn:
        picture = np.asarray(drawn.convert("RGB"))
    # Pink shows through the map, which reaches to the edges of the picture.
    assert (picture != 255).any(axis=2).mean() > 0.3


@pytest.mark.parametrize(
    ("item", "options", "message"),
    [
        ("b0", "--png a.png --thumbnail pictures", "120 pixels of x wide, but x goes up to 800"),
        ("b0", "--png a.png --thumbnail pictures --scale 3", "360 pixels of x wide"),
        ("b1", "--png a.png --thumbnail pictures", "90 pixels of y wide, but y goes up to 400"),
        ("b2", "--png a.png --thumbnail pictures", "2, such as "),
        ("b3", "--png a.png --thumbnail pictures", "Of the 5 media files in pictures, none"),
        ("b3", "--png a.png --thumbnail gone.png", "gone.png"),
        ("b3", "--png a.png --thumbnail m", "m is not an image or a slide"),
        ("a/1", "--png pictures/a/1.png --thumbnail pictures", "would be replaced"),
        ("b3", "--thumbnail pictures", "Name its file too: --png map.png"),
        ("b3", "--png a.png --scale 2", "Pass it too: --thumbnail PATH"),
        ("b3", "--png a.png --thumbnail pictures --scale -2", "--scale"),
    ],
)
def test_attention_rejects_pictures_that_do_not_fit(placed, capsys, item, options, message):
    assert message in run(f"attention m s.zarr {item} {options}", capsys, fails=True).err
    assert not Path("a.png").exists()


def test_attention_warns_if_positions_are_no_pixels(placed, capsys):
    shutil.copy("pictures/a/1.png", "p.png")
    options = "--png a.png --thumbnail p.png --scale 100"
    warned = run(f"attention m s.zarr a/1 {options}", capsys).err
    assert "x and y are within the first 2% of p.png" in warned


def test_attention_needs_positions_below_a_thumbnail(placed, capsys):
    X = acluster.open_feature_sets("s.zarr")
    acluster.save_feature_sets("plain.zarr", [*X])
    options = "--png a.png --thumbnail pictures/a/1.png"
    message = "plain.zarr has the places x and y in 0 modalities"
    assert message in run(f"attention m plain.zarr 0 {options}", capsys, fails=True).err
