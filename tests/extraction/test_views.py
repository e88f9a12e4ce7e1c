import math
import pickle
import threading
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from acluster.extraction import Clips, FlowStacks, Frames, LogMel, Waveforms
from acluster.extraction._reading import ReadAhead
from acluster.extraction._video import Video
from acluster.extraction._view import read_views
from acluster.extraction._views import moments, pixels
from tests.extraction.media import make_media
from tests.extraction.test_sound import noise, write_wav

av = pytest.importorskip("av", reason="needs the extra media")

STEP = 2  # pixels between frames


def texture(number, width, height):
    """A smooth pattern that moves to the right by `STEP` pixels per frame, red in its left half."""
    y, x = np.mgrid[:height, :width]
    waves = np.sin((x - STEP * number) / 5) + np.sin(y / 4)
    image = np.repeat((128 + 50 * waves)[..., None], 3, axis=2).astype(np.uint8)
    image[..., 0] = np.where(x < width / 2, 220, 30)
    return image


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Forty frames in four seconds, 128 x 64, coded without loss."""
    path = tmp_path_factory.mktemp("videos") / "moving.mkv"
    options = {"g": "10", "qp": "0", "preset": "ultrafast"}
    return make_media(path, 40, 10, options=options, size=(128, 64), make_picture=texture)


def test_moments_are_the_middles_of_equal_intervals(video):
    with Video(video) as opened:
        d = opened.duration
        assert list(moments(opened, 4, None)) == [d / 8, 3 * d / 8, 5 * d / 8, 7 * d / 8]
        fast = list(moments(opened, 1, 2.0))
        assert fast == [Fraction(1, 4) + i * Fraction(1, 2) for i in range(int(2 * d))]
        assert next(moments(opened, 3, None, 21)) == 0
        runs = list(moments(opened, 3, None, 11))
        middle = runs[1] + 5 * opened.frame_seconds
        assert float(middle) == pytest.approx(float(d / 2))
        assert runs[-1] + 11 * opened.frame_seconds <= d + opened.frame_seconds


def test_frames_view_takes_the_square_in_the_middle(video):
    batch, places = Frames(n=4, size=32).read(video)
    assert batch.shape == (4, 32, 32, 3)
    assert batch.dtype == np.uint8
    np.testing.assert_allclose(places["seconds"], [0.5, 1.5, 2.5, 3.5], atol=0.05)
    assert batch[:, :, :14, 0].min() > 180  # the red half ends in the middle
    assert batch[:, :, 18:, 0].max() < 80


def test_frames_view_by_fps(video):
    batch, places = Frames(fps=5, size=32).read(video)
    assert len(batch) == 20
    np.testing.assert_allclose(np.diff(places["seconds"]), 0.2, atol=1e-6)
    assert len(Frames(fps=100, size=32).read(video)[0]) == 40


def test_clips_view_has_consecutive_frames_in_their_order(video):
    batch, places = Clips(n=2, length=4, size=64).read(video)
    assert batch.shape == (2, 4, 64, 64, 3)
    for clip, second in zip(batch, places["seconds"], strict=True):
        first = round(second * 10)
        for number, frame in enumerate(clip, first):
            expected = texture(number, 128, 64)[:, 32:96, 1].astype(float)
            assert np.abs(frame[..., 1] - expected).mean() < 12
            other = texture(number + 3, 128, 64)[:, 32:96, 1].astype(float)
            assert np.abs(frame[..., 1] - other).mean() > 20


@pytest.mark.parametrize("method", ["tvl1", "dis"])
def test_flow_stacks_view_finds_the_motion(video, method):
    if method == "dis":
        pytest.importorskip("cv2", reason="needs the extra flow")
    batch, places = FlowStacks(n=3, length=2, method=method, size=64).read(video)
    assert batch.shape == (3, 64, 64, 4)
    assert batch.dtype == np.float32
    assert len(places["seconds"]) == 3
    inner = batch[:, 8:-8, 8:-8]
    assert np.median(inner[..., 0::2]) == pytest.approx(STEP, abs=0.3)
    assert np.median(np.abs(inner[..., 1::2])) < 0.3


def test_flow_stacks_view_clips_at_20_pixels(tmp_path):
    pytest.importorskip("cv2", reason="needs the extra flow")

    def jumping(number, width, height):
        image = np.zeros((height, width, 3), np.uint8)
        image[20:100, 10 + 30 * number : 60 + 30 * number] = 255
        return image

    path = make_media(tmp_path / "j.mkv", 4, 10, size=(128, 128), make_picture=jumping)
    batch, _ = FlowStacks(n=1, length=2, method="dis", size=128).read(path)
    assert np.abs(batch).max() <= 20


def test_flow_stacks_of_overlapping_runs_equal_those_of_separate_ones(video):
    many, places = FlowStacks(n=30, length=3, method="tvl1", size=32).read(video)
    with Video(video) as opened:
        frames = {
            round(float(opened.seconds(run.frames[0].pts)), 3): run.frames
            for run in opened.runs([FlowStacks(n=30, length=3, size=32).sampling(opened)])
        }
    view = FlowStacks(length=3, method="tvl1", size=32)
    for stack, second in zip(many[::7], places["seconds"][::7], strict=True):
        run = [view.prepare(frame, Fraction(1)) for frame in frames[round(second, 3)]]
        np.testing.assert_allclose(view.batch([run])[0], stack, atol=1e-3)


def test_video_views_of_a_short_video_repeat_the_last_frame(tmp_path):
    path = make_media(tmp_path / "short.mkv", 3, 10, make_picture=texture)
    (clip,), _ = Clips(n=2, length=6, size=32).read(path)
    np.testing.assert_array_equal(clip[3], clip[2])
    np.testing.assert_array_equal(clip[5], clip[2])
    assert (clip[1] != clip[2]).any()
    (stack,), _ = FlowStacks(n=2, length=5, size=32).read(path)
    assert not stack[..., 4:].any()
    assert stack[..., :4].any()


def test_video_views_share_one_pass(video, monkeypatch):
    n_opened = []
    monkeypatch.setattr(Video, "_open", counted(Video._open, n_opened))
    views = {"rgb": Frames(n=4, size=32), "clips": Clips(n=2, length=3, size=32)}
    found = list(read_views(video, views, []))
    assert sorted(chunk.name for chunk in found) == ["clips", "rgb"]
    assert len(n_opened) == 1


def counted(function, calls):
    def call(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return call


class Rotated:
    """A frame that says how it is to be turned."""

    def __init__(self, frame, rotation):
        self.width, self.height, self.rotation = frame.width, frame.height, rotation
        self.to_ndarray = frame.to_ndarray


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_pixels_undoes_the_rotation(rotation):
    image = texture(0, 64, 64)
    frame = Rotated(av.VideoFrame.from_ndarray(image, "rgb24"), rotation)
    found = pixels(frame, 64, "rgb24", Fraction(1))
    np.testing.assert_array_equal(found, np.rot90(image, rotation // 90))


def test_pixels_stretches_pixels_that_are_not_square():
    image = texture(0, 64, 64)
    frame = av.VideoFrame.from_ndarray(image, "rgb24")
    stretched = pixels(frame, 64, "gray", Fraction(2))
    wide = av.VideoFrame.from_ndarray(np.repeat(image, 2, axis=1), "rgb24")
    expected = pixels(wide, 64, "gray", Fraction(1))
    assert np.abs(stretched.astype(float) - expected).mean() < 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Frames(n=0), "Frames: n=0 is not an integer above 0"),
        (lambda: Frames(n=2.5), "n=2.5 is not an integer"),
        (lambda: Frames(size="big"), "size='big' is not an integer"),
        (lambda: Frames(fps=math.nan), "fps=nan is not a number above 0"),
        (lambda: Frames(fps=math.inf), "fps=inf is not"),
        (lambda: LogMel(silence=-1), "silence=-1 is not a number of at least 0"),
        (lambda: LogMel(hop=97), "hop=97 is more than length=96"),
        (lambda: LogMel(length=10, hop=11), "hop=11 is more than length=10"),
        (lambda: LogMel(hop=0), "hop=0 is not an integer above 0"),
        (lambda: LogMel(hop=2.5), "hop=2.5 is not an integer"),
        (lambda: LogMel(length="long"), "length='long' is not an integer"),
        (lambda: Waveforms(seconds=1, hop=2), "hop=2 must be at most seconds=1"),
        (lambda: Waveforms(seconds=1, hop=1e-9), "at least a sample"),
        (lambda: FlowStacks(method="farneback"), "method='farneback' is not one of"),
    ],
)
def test_views_reject_invalid_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_views_take_numbers_of_numpy():
    assert Frames(n=np.int64(3), fps=np.float32(2)) == Frames(n=3, fps=2.0)
    assert type(Frames(n=np.int64(3)).n) is int


def test_read_ahead_holds_no_more_than_its_bytes(tmp_path):
    paths = {}
    for number in range(4):
        paths[str(number)] = write_wav(tmp_path / f"{number}.wav", noise(16000 * 8, number))
    views = {"audio": Waveforms(seconds=0.5)}  # each file is 512 kB of samples
    limit, held, most = 300_000, [0], [0]
    with ReadAhead(paths, views, 4, limit, False) as reader:
        budget = reader._budget
        for reading in reader:
            for chunk in reader.chunks(reading):
                time.sleep(0.01)
                held.append(budget._used)
                most[0] = max(most[0], budget._used)
                reader.release(chunk.batch.nbytes)
                largest = chunk.batch.nbytes
    assert 0 < most[0] <= limit + largest
    assert budget._used == 0


def test_read_ahead_stops_threads_that_wait_for_room(tmp_path):
    paths = {
        str(number): write_wav(tmp_path / f"{number}.wav", noise(16000 * 8, number))
        for number in range(3)
    }
    with ReadAhead(paths, {"audio": Waveforms()}, 3, 1, False) as reader:
        next(iter(reader))
    deadline = time.monotonic() + 20
    while any(thread.name.startswith("acluster-read") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_views_can_be_replaced_with_another_setting():
    assert replace(Waveforms(), seconds=0.5) == Waveforms(seconds=0.5)
    for view in (LogMel(), pickle.loads(pickle.dumps(LogMel())), replace(LogMel(), silence=1e-3)):
        assert view == LogMel(hop=96, length=96)  # as descriptions have it
        assert replace(view, length=10) == LogMel(length=10)
        assert replace(view, length=192).seconds_per_row == LogMel(length=192).seconds_per_row
    with pytest.raises(ValueError, match="hop=96 is more than length=10"):
        replace(LogMel(hop=96), length=10)
