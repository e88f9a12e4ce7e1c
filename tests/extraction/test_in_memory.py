"""`extract_features` gives the features of a store, and runs nothing that it is not told to."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from acluster import (
    FeatureSetsWriter,
    MultimodalAttentionClusterClassifier,
    load,
    open_feature_sets,
)
from acluster.extraction import (
    Clips,
    FlowStacks,
    Frames,
    LogMel,
    Waveforms,
    extract,
    extract_features,
    extracted_parts,
    find_media,
    flat_descriptor,
    flow_descriptor,
    frame_descriptor,
    patch_descriptor,
)
from acluster.extraction._backbones import describe
from acluster.extraction._files import media_files
from acluster.extraction._named_backbones import LOADERS
from acluster.extraction._rebuild import rebuilt
from acluster.extraction._views import describe_view, is_description_of
from tests.extraction.media import make_media
from tests.extraction.test_extract import level
from tests.extraction.test_sound import noise, write_wav

pytest.importorskip("av")

VIEWS = {
    "rgb": (Frames(n=5, size=48), frame_descriptor),
    "flow": (FlowStacks(n=2, length=1, method="dis", size=32), flow_descriptor),
    "audio": (LogMel(), patch_descriptor),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos in two folders; the second is without sound."""
    root = tmp_path_factory.mktemp("videos")
    for number, seconds in enumerate((1.2, None, 1.2)):
        folder = root / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        make_media(folder / f"{number}.mp4", 10 + 10 * number, seconds_of_sound=seconds)
    return root


@pytest.fixture(scope="module")
def store(videos, tmp_path_factory):
    pytest.importorskip("cv2")
    path = tmp_path_factory.mktemp("stores") / "videos.zarr"
    extract(videos, path, VIEWS, labels="folders")
    return path


def test_extract_features_equals_the_store(videos, store):
    expected = open_feature_sets(store)
    paths = [videos / id_ for id_ in expected.id]
    X = extract_features(paths, expected.extraction)
    assert X.names == expected.names
    assert X.extraction == expected.extraction
    for name in X.names:
        assert X[name].dtype == expected[name].dtype
        assert X[name].places.column_names == expected[name].places.column_names
        for own, other in ((X[name], expected[name]), (X[name].places, expected[name].places)):
            assert all(np.array_equal(a, b) for a, b in zip(own, other, strict=True))
    assert X.missing["audio"].tolist() == expected.missing["audio"].tolist() == [False, False, True]


def test_extract_features_of_one_file_leaves_out_what_it_lacks(videos, store):
    extraction = open_feature_sets(store).extraction
    X = extract_features(str(videos / "b" / "1.mp4"), extraction, dtype="float32")
    assert (len(X), X.names, X["rgb"].dtype) == (1, ["rgb", "flow"], np.float32)


def test_extract_features_takes_views_and_backbones(videos, tmp_path):
    sound = write_wav(tmp_path / "a.wav", noise(16000))
    view = Waveforms(seconds=0.25)
    X = extract_features([sound, sound], {"audio": (view, level)}, dtype="float32", batch_size=3)
    np.testing.assert_allclose(X["audio"][1], level(view.read(sound)[0]), rtol=1e-6)
    assert X.extraction == {"audio": describe(view, level)}


def test_extract_features_names_files_that_fail(tmp_path):
    (tmp_path / "b.wav").write_bytes(b"nothing" * 100)
    views = {"audio": (Waveforms(), level)}
    with pytest.raises(ValueError, match=r"b.wav cannot be read as a media file"):
        extract_features(tmp_path / "b.wav", views)
    with pytest.raises(FileNotFoundError, match=r"no file at '.*c.wav'"):
        extract_features([tmp_path / "c.wav"], views)
    with pytest.raises(ValueError, match="paths is empty"):
        extract_features([], views)
    write_wav(tmp_path / "d.wav", noise(16000))
    for value, message in ((1e6, "beyond the range of float16"), (np.nan, "not finite")):

        def constant(batch, value=value):
            return np.full((len(batch), 2), value)

        with pytest.raises(ValueError, match=message):
            extract_features(tmp_path / "d.wav", {"audio": (Waveforms(), constant)})


def test_extract_features_warns_of_odd_files(tmp_path):
    make_media(tmp_path / "short.mp4", 30, seconds_of_sound=0.5)
    with pytest.warns(UserWarning, match=r"short.mp4: the sound ends at 0.5 of 1.2 s") as caught:
        extract_features(tmp_path / "short.mp4", {"audio": VIEWS["audio"]})
    assert caught[0].filename == __file__


def test_extracted_parts_goes_on_after_failures(tmp_path):
    files = {}
    for i in range(7):
        files[f"{i}"] = tmp_path / f"{i}.wav"
        write_wav(files[f"{i}"], noise(8000 + 4000 * i, i))
    files["2"].write_bytes(b"")
    failed = {}
    views = {"audio": (Waveforms(seconds=0.25), level)}
    parts = list(extracted_parts(files, views, 4, failed=failed, batch_size=5))
    assert [ids for ids, _ in parts] == [["0", "1", "3", "4"], ["5", "6"]]
    assert list(failed) == ["2"]
    assert "is empty" in failed["2"]
    for ids, X in parts:
        assert X["audio"].lengths.tolist() == [2 + int(id_) for id_ in ids]
    assert list(extracted_parts({"2": files["2"]}, views, 4, failed=failed)) == []


@pytest.mark.parametrize(
    "view",
    [
        Frames(fps=2),
        Frames(n=3, fps=0.5),
        Clips(n=2, length=4, size=32),
        FlowStacks(method="dis"),
        LogMel(hop=48, silence=0),
        LogMel(length=10),
        LogMel(length=10, hop=5),
        Waveforms(seconds=2, hop=0.5, rate=8000),
    ],
)
def test_rebuilt_gives_the_views_that_were_described(view):
    described = describe(view, "acluster.extraction:frame_descriptor")
    assert rebuilt({"x": described}) == {"x": (view, "acluster.extraction:frame_descriptor")}


def test_describe_view_keeps_the_descriptions_of_the_first_version():
    """Models and stores have them. A setting that is added needs the metadata ADDED_LATER."""
    frames = {"kind": "Frames", "n": 25, "fps": None, "size": 224}
    assert describe_view(Frames()) == frames
    assert describe_view(Clips()) == {**frames, "kind": "Clips", "n": 10, "length": 16, "size": 112}
    flow = {**frames, "kind": "FlowStacks", "length": 5, "method": "tvl1"}
    assert describe_view(FlowStacks()) == flow
    assert describe_view(FlowStacks(device="auto")) == flow  # which does not say what is read
    assert describe_view(LogMel()) == {"kind": "LogMel", "hop": 96, "silence": 1e-3}
    sound = {"kind": "Waveforms", "seconds": 1.0, "hop": None, "rate": 16000, "silence": 1e-3}
    assert describe_view(Waveforms()) == sound


def test_rebuilt_rejects_a_setting_that_is_not_part_of_a_description():
    described = describe(FlowStacks(), "acluster.extraction:flow_descriptor")
    described["view"]["device"] = "cpu"
    with pytest.raises(ValueError, match="unknown setting device='cpu'"):
        rebuilt({"x": described})


def test_describe_view_has_settings_that_were_added_later_unless_they_are_the_default():
    described = describe_view(LogMel(hop=5, length=10))
    assert described == {"kind": "LogMel", "hop": 5, "silence": 1e-3, "length": 10}


@pytest.mark.parametrize(
    ("view", "described", "is_same"),
    [
        (LogMel(), {"kind": "LogMel", "hop": 96, "silence": 1e-3}, True),
        (LogMel(), {"kind": "LogMel", "hop": 96, "silence": 1e-3, "length": 96}, True),
        (LogMel(length=10), {"kind": "LogMel", "length": 10}, True),
        (LogMel(length=10), {"kind": "LogMel", "hop": 10, "silence": 1e-3}, False),
        (LogMel(hop=48), {"kind": "LogMel", "silence": 1e-3}, False),
        (LogMel(), {"kind": "LogMel", "hop": 96, "bands": 64}, False),
        (LogMel(), {"kind": "Waveforms"}, False),
        (Waveforms(seconds=3, hop=2), {"kind": "Waveforms", "hop": 2}, False),
        (Frames(), {"kind": "Frames"}, True),
        (Frames(size=64), {"kind": "Frames", "n": 25}, False),
    ],
)
def test_is_description_of_takes_an_absent_setting_as_its_default(view, described, is_same):
    assert is_description_of(view, described) == is_same


def test_rebuilt_takes_the_descriptors_of_acluster():
    for descriptor in (flat_descriptor, frame_descriptor, flow_descriptor, patch_descriptor):
        name = f"acluster.extraction:{descriptor.__name__}"
        assert rebuilt({"x": describe(Frames(), descriptor)}) == {"x": (Frames(), name)}


@dataclass(frozen=True)
class Sizes:
    """A view of the size of a file."""

    n: int = 2
    powers: tuple = (1, 2)

    def __post_init__(self):
        object.__setattr__(self, "n", min(self.n, 3))

    def read(self, path):
        return np.full((self.n, 2), Path(path).stat().st_size) ** np.array(self.powers), None


class Undescribed:
    """A view that only has a name."""

    def read(self, path):
        return np.ones((1, 1)), None


def identity(batch):
    return batch


def scaled(batch, factor=1):
    return factor * batch


OWN = "acluster.extraction:frame_descriptor"
FRAMES = {"kind": "Frames", "n": 3, "fps": None, "size": 32}


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (describe(Frames(), identity), r"test_in_memory:identity'.* trust=True, or --trust"),
        ({"view": FRAMES, "backbone": "os:system"}, r"'os:system'.* importing it runs"),
        ({"view": FRAMES, "backbone": f"{OWN}.__globals__"}, "importing it runs"),
        ({"view": FRAMES, "backbone": "acluster.extraction:extract"}, "importing it runs"),
        ({"view": FRAMES, "backbone": "timm:hf-hub:evil/net"}, "importing it runs"),
        ({"view": FRAMES, "backbone": "net.onnx"}, "importing it runs"),
        ({"view": {"kind": "os:system"}, "backbone": OWN}, r"its view is 'os:system'"),
        (describe(Sizes(), OWN), r"its view is '.*:Sizes'.*trust=True"),
        ({"view": {"kind": "Holograms"}, "backbone": OWN}, "no view 'Holograms'"),
        ({"view": {**FRAMES, "n": "os:system"}, "backbone": OWN}, r"setting n='os:system'"),
        ({"view": {**FRAMES, "n": True}, "backbone": OWN}, "setting n=True"),
        ({"view": {**FRAMES, "n": 10**400}, "backbone": OWN}, "setting n=1000"),
        ({"view": {**FRAMES, "n": 2.5}, "backbone": OWN}, "setting n=2.5"),
        ({"view": {**FRAMES, "n": [1]}, "backbone": OWN}, r"setting n=\[1\]"),
        ({"view": {**FRAMES, "__class__": "x"}, "backbone": OWN}, "setting __class__='x'"),
        ({"view": {**FRAMES, "_may_be_zero": None}, "backbone": OWN}, "setting _may_be_zero"),
        ({"view": {**FRAMES, "n": -1}, "backbone": OWN}, "n=-1 is not"),
        ({"view": FRAMES, "backbone": {"module": "a:Net", "weights": "0f"}}, "a torch module, 'a:"),
        (None, "is None, which describes no view"),
        ("os:system", "describes no view and backbone"),
    ],
)
def test_rebuilt_rejects_what_it_does_not_know(described, message, monkeypatch):
    def refuse(name, package=None):
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr("acluster.extraction._rebuild.import_module", refuse)
    with pytest.raises(ValueError, match=f"In modality 'x'.*{message}") as caught:
        rebuilt({"x": described})
    assert "predict on that" in str(caught.value)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (describe(Frames(), lambda batch: batch), "<lambda>'.* local to the program"),
        (describe(Undescribed(), identity), "Undescribed, is not a dataclass"),
        ({"view": {"kind": "no_such:View"}, "backbone": OWN}, "cannot be imported: No module"),
        ({"view": {"kind": "os:View"}, "backbone": OWN}, "cannot be imported: .*'View'"),
        (
            {"view": FRAMES, "backbone": "no_such:f"},
            "'no_such:f' cannot be loaded: .*no module no_such",
        ),
        ({"view": FRAMES, "backbone": "os:f"}, "'os:f' cannot be loaded: .*'f'"),
        ({"view": {**FRAMES, "kind": f"{__name__}:Sizes"}, "backbone": OWN}, "cannot be made"),
        (describe(Frames(), torch.nn.Flatten()), "a torch module, 'torch.nn.modules.flatten:"),
    ],
)
def test_extract_features_says_what_cannot_be_rebuilt(tmp_path, described, message):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=message):
        extract_features(tmp_path / "a.mp4", {"x": described}, trust=True)


def test_extract_features_imports_what_is_trusted(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"123")
    extraction = {"x": describe(Sizes(n=2, powers=(1, 2)), identity)}
    with pytest.raises(ValueError, match="trust=True"):
        extract_features(tmp_path / "a.wav", extraction)
    X = extract_features(tmp_path / "a.wav", extraction, trust=True)
    assert X["x"][0].tolist() == [[3, 9], [3, 9]]
    assert X["x"].places is None
    assert X.extraction == extraction


def test_extract_features_loads_networks_by_name_and_compares_their_weights(tmp_path, monkeypatch):
    def load(name, output, device):
        assert (name, output) == ("tiny", None)
        return network

    def network(batch):
        return level(batch)

    network.description = {"weights": "0f"}
    monkeypatch.setitem(LOADERS, "timm", load)
    view, sound = Waveforms(seconds=0.25), write_wav(tmp_path / "a.wav", noise(16000))
    extraction = {"audio": describe(view, "timm:tiny", network)}
    X = extract_features(sound, extraction)
    assert X.extraction == extraction
    network.description = {"weights": "ff"}
    with pytest.raises(ValueError, match=r"what was made from it is .*'weights': 'ff'"):
        extract_features(sound, extraction)


def test_extract_features_rejects_another_result_than_described(tmp_path):
    (tmp_path / "a.mp4").touch()
    described = describe(Sizes(), identity)
    described["view"]["n"] = 4
    with pytest.raises(ValueError, match="what was made from it is"):
        extract_features(tmp_path / "a.mp4", {"x": described}, trust=True)


def test_views_that_got_a_setting_fit_the_stores_and_models_before(tmp_path):
    """Its description then lacks the setting, which has its default."""
    for i in range(4):
        (tmp_path / f"{i}.wav").write_bytes(b"x" * (2 + i))
    before = {"x": describe(Sizes(), identity)}
    del before["x"]["view"]["powers"]
    store = tmp_path / "s.zarr"
    with FeatureSetsWriter(store, dtype="float16", attributes={"extraction": before}) as writer:
        writer.append({"x": np.array([[2.0, 4.0]] * 2)}, id="0.wav")
    report = extract(tmp_path, store, {"x": (Sizes(), identity)})
    assert (report.n_items, report.n_new) == (4, 3)
    X = open_feature_sets(store)
    assert X.extraction == before
    clf = MultimodalAttentionClusterClassifier(max_iter=2, random_state=0).fit(X, [0, 1, 0, 1])
    new = extract_features(tmp_path / "3.wav", clf.extraction_, trust=True)
    assert new["x"][0].tolist() == [[5, 25], [5, 25]]
    assert clf.predict(new) == clf.predict(X[3:])
    with pytest.raises(ValueError, match="begun with another extraction"):
        extract(tmp_path, store, {"x": (Sizes(powers=(1, 3)), identity)})


@pytest.mark.parametrize("extraction", [None, {}, "rgb"])
def test_extract_features_without_a_description_says_where_it_comes_from(tmp_path, extraction):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"fitted to a store of acluster.extraction.extract"):
        extract_features(tmp_path / "a.mp4", extraction)


def test_a_module_that_is_passed_is_compared_with_that_of_fit(tmp_path):
    for i in range(4):
        write_wav(tmp_path / f"{i}.wav", noise(8000, i))
    torch.manual_seed(0)
    net, other = (torch.nn.Linear(1600, 3) for _ in range(2))
    view = Waveforms(seconds=0.1)
    extract(tmp_path, tmp_path / "s.zarr", {"audio": (view, net)})
    clf = MultimodalAttentionClusterClassifier(max_iter=2, random_state=0)
    clf.fit(tmp_path / "s.zarr", [0, 1, 0, 1])
    with pytest.raises(ValueError, match="was a torch module"):
        extract_features(tmp_path / "0.wav", clf.extraction_)
    X = extract_features(tmp_path / "0.wav", {"audio": (view, net)})
    assert clf.predict(X) == clf.predict(open_feature_sets(tmp_path / "s.zarr")[:1])
    with pytest.raises(ValueError, match=r"backbone.weights is '\w+', but in fit it was"):
        clf.predict(extract_features(tmp_path / "0.wav", {"audio": (view, other)}))


EVIL = """
import pathlib
pathlib.Path("was_imported").touch()
def backbone(batch):
    return batch.reshape(len(batch), -1)
"""


def test_a_hostile_model_file_imports_nothing(videos, store, tmp_path):
    X = open_feature_sets(store)
    clf = MultimodalAttentionClusterClassifier(max_iter=2, random_state=0).fit(X, X.label)
    clf.extraction_["rgb"]["backbone"] = "evil:backbone"
    clf.save(tmp_path / "evil.model")
    (tmp_path / "evil.py").write_text(EVIL)
    script = (
        "import sys, acluster\n"
        "from acluster.extraction import extract_features\n"
        "clf = acluster.load('evil.model')\n"
        "extract_features(sys.argv[1], clf.extraction_, trust=len(sys.argv) > 2)\n"
    )
    for trust in ([], ["trust"]):
        command = [sys.executable, "-c", script, str(videos / "a" / "0.mp4"), *trust]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode == 0) == bool(trust), done.stderr
        assert ("importing it runs code" in done.stderr) != bool(trust)
        assert (tmp_path / "was_imported").exists() == bool(trust)
    assert load(tmp_path / "evil.model").extraction_ == clf.extraction_


def test_find_media_names_files_and_those_in_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "v/a/10.mp4",
        "v/a/2.mp4",
        "v/notes.txt",
        "w/x.wav",
        "odd.dat",
        "s.zarr/zarr.json",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("s.zarr/a.mp4").touch()
    assert find_media(["v"]) == {"a/2.mp4": Path("v/a/2.mp4"), "a/10.mp4": Path("v/a/10.mp4")}
    assert [*find_media(["v/a/2.mp4"])] == ["v/a/2.mp4"]
    assert [*find_media(["odd.dat", Path("v"), "w/x.wav"])] == [
        "odd.dat", "v/a/2.mp4", "v/a/10.mp4", "w/x.wav",
    ]  # fmt: skip
    for store in ("s.zarr", "odd.dat", "gone", "https://host/s.zarr"):
        assert find_media([store]) == {}
    with pytest.raises(FileNotFoundError, match="gone"):
        find_media(["v", "gone.mp4"])


def test_media_files_leaves_out_the_images_that_a_slide_names(tmp_path):
    for name in ("s/scan.jpg", "s/map.jpg", "s/other.jpg", "scan.jpg", "s/m.mrxs", "s/m/Data0.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"content")
    text = (
        "[Virtual Microscope Specimen]\r\nNoLayers=1\r\nImageFile=scan.jpg\r\nMapFile= map.jpg\r\n"
    )
    (tmp_path / "s/slide.vms").write_bytes(text.encode() + b"Note=caf\xe9\r\nSelf=slide.vms\r\n")
    expected = ["s/m.mrxs", "s/other.jpg", "s/slide.vms", "scan.jpg"]
    assert sorted(media_files(tmp_path)) == expected
    assert sorted(find_media([tmp_path])) == expected
