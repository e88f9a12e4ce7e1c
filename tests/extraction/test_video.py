import bisect
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acluster.extraction._media import MediaError, NoTrackError
from acluster.extraction._video import Sampling, Video
from tests.extraction.media import make_media

av = pytest.importorskip("av", reason="needs the extra media")

GOOD = [
    "av1_video.mkv",
    "discard_first_keyframe.mp4",
    "h265_video.mp4",
    "nasa_13013.mp4",
    "nasa_13013_rotated.mp4",
    "test_non_zero_start.mp4",
    "testsrc2_vp9.webm",
    "damaged/all_one_gop.mkv",
    "damaged/avi.avi",
    "damaged/frag.mp4",
    "damaged/late_start.mp4",
    "damaged/one_frame.mp4",
    "damaged/vfr.mp4",
]


def clips():
    home = os.environ.get("ACLUSTER_DATA")
    folder = Path(home, "clips") if home else None
    if folder is None or not folder.is_dir():
        pytest.skip("needs the folder clips of the data home, ACLUSTER_DATA")
    return folder


def decoded(path):
    """Decode everything: the time stamps of the frames, and the frames."""
    with av.open(str(path)) as file:
        stream = file.streams.best("video")
        frames = sorted(file.decode(stream), key=lambda frame: frame.pts)
        return [frame.pts for frame in frames], frames


def equal_times(video, n):
    step = video.duration / n
    return [video.begin + (i + Fraction(1, 2)) * step for i in range(n)]


def read(path, n):
    """Return the time stamps and pixels of n frames at equal intervals, and the video."""
    with Video(path) as video:
        runs = list(video.runs([Sampling(equal_times(video, n))]))
    assert all(len(run.frames) == 1 for run in runs)
    return [run.frames[0] for run in runs], video


def expected(path, n):
    """Return the distinct frames shown at these times, found among all."""
    stamps, frames = decoded(path)
    with Video(path) as video:
        seconds = [video.seconds(stamp) for stamp in stamps]
        numbers = [max(0, bisect.bisect_right(seconds, t) - 1) for t in equal_times(video, n)]
    return [frames[number] for number in dict.fromkeys(numbers)]


def assert_same_frames(found, wanted):
    assert [frame.pts for frame in found] == [frame.pts for frame in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(
            one.to_ndarray(format="rgb24"), other.to_ndarray(format="rgb24")
        )


@pytest.mark.parametrize("n", [1, 7, 25, 600])
@pytest.mark.parametrize("name", GOOD)
def test_video_frames_equal_those_of_decoding_everything(name, n):
    path = clips() / name
    found, video = read(path, n)
    assert_same_frames(found, expected(path, n))
    assert video.warnings() == (["the video has a single frame"] if "one_frame" in name else [])


CODINGS = {
    "closed.mp4": ("libx264", {"g": "24", "x264-params": "open-gop=0:bframes=3"}),
    "open.mp4": ("libx264", {"g": "24", "x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}),
    "open.mkv": ("libx264", {"g": "24", "x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}),
    "closed.mkv": ("libx264", {"g": "24"}),
    "simple.avi": ("mpeg4", {"g": "24"}),
    "stream.ts": ("libx264", {"g": "24", "x264-params": "bframes=2"}),
    "vp9.webm": ("libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8"}),
}


@pytest.fixture(scope="module", params=CODINGS)
def coded(request, tmp_path_factory):
    """A video of 240 frames, ten groups of pictures or more."""
    codec, options = CODINGS[request.param]
    path = tmp_path_factory.mktemp("coded") / request.param
    return make_media(path, 240, codec=codec, options=options)


@pytest.mark.parametrize("n", [1, 3, 11])
def test_video_seeks_to_the_frames_of_decoding_everything(coded, n):
    found, video = read(coded, n)
    assert_same_frames(found, expected(coded, n))
    if coded.suffix == ".mp4":
        assert video.n_seeks > 0
        assert video.n_decoded < 240 * min(1, 0.2 * n)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    numbers=st.lists(st.integers(0, 239), min_size=1, max_size=6, unique=True),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
def test_video_runs_are_consecutive_frames(coded, numbers, lengths):
    stamps, _ = decoded(coded)
    with Video(coded) as video:
        times = [video.seconds(stamps[number]) for number in sorted(numbers)]
        samplings = [Sampling(times, length) for length in lengths]
        runs = list(video.runs(samplings))
    for place, length in enumerate(lengths):
        found = [[frame.pts for frame in run.frames] for run in runs if run.sampling == place]
        assert found == [stamps[number : number + length] for number in sorted(numbers)]


def test_video_with_a_wrong_index_still_gives_the_right_frames(coded, monkeypatch):
    wanted = expected(coded, 4)
    for keys in ([0, 10**9], list(range(0, 10**6, 977)), [0, 1, 2, 3]):
        monkeypatch.setattr(Video, "_key_stamps", lambda self, keys=keys: keys)
        assert_same_frames(read(coded, 4)[0], wanted)


def test_video_without_a_duration_takes_that_of_its_packets(tmp_path):
    path = make_media(tmp_path / "raw.mkv", 30, options={"g": "5", "bf": "0"})
    raw = tmp_path / "raw.h264"
    with av.open(str(path)) as source, av.open(str(raw), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    found, video = read(raw, 30)
    assert len(found) == 30
    assert 1 < video.duration < 1.5


def test_video_that_ends_early_says_so():
    found, video = read(clips() / "damaged" / "moov_first_cut.mp4", 20)
    assert len(found) == 12
    assert video.warnings() == ["the video ends at 1.2 of 2.0 s"]


def test_video_passes_over_damaged_packets():
    found, video = read(clips() / "damaged" / "bit_errors.mkv", 50)
    assert len(found) >= 30
    assert "1 packet of the video cannot be decoded" in video.warnings()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("text.mp4", MediaError, "cannot be read as a media file"),
        ("truncated_half.mp4", MediaError, "cannot be read as a media file"),
        ("zero_length.mp4", MediaError, "is empty"),
        ("audio_only.m4a", NoTrackError, "has no video"),
        ("cover.mp3", NoTrackError, "has no video"),
        ("nothing.mp4", FileNotFoundError, "nothing.mp4"),
    ],
)
def test_video_names_a_file_that_it_cannot_read(name, kind, message):
    with pytest.raises(kind, match=message):
        Video(clips() / "damaged" / name)
