import math
import wave
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster.extraction import LogMel, Waveforms
from acluster.extraction._media import Decoder, MediaError, NoTrackError
from acluster.extraction._sound import RATE, Mix, Sound, log_mel, loudness, regrouped
from acluster.extraction._view import read_views
from tests.extraction.media import make_media
from tests.extraction.test_video import clips

av = pytest.importorskip("av", reason="needs the extra media")


def slow_log_mel(samples):
    """Log-mel spectra by the definition, one window and one band at a time."""

    def mel(frequency):
        return 1127 * math.log(1 + frequency / 700)

    edges = np.linspace(mel(125), mel(7500), 66)
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * i / 400) for i in range(400)]
    turns = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)
    spectra = []
    for first in range(0, len(samples) - 399, 160):
        magnitude = abs(turns @ (samples[first : first + 400].astype(float) * hann))
        bands = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for i in range(1, 257):
                m = mel(i * 8000 / 256)
                if low < m < high:
                    weight = (
                        (m - low) / (middle - low) if m <= middle else (high - m) / (high - middle)
                    )
                    total += weight * magnitude[i]
            bands.append(math.log(total + 0.01))
        spectra.append(bands)
    return np.array(spectra)


def noise(n_samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def write_wav(path, samples, rate=RATE, n_channels=1):
    with wave.open(str(path), "wb") as file:
        file.setparams((n_channels, 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def samples_of(sound, mix=Mix(RATE)):  # noqa: B008, it is a tuple
    """Return all samples of a mix, and check that there are no others."""
    blocks = list(sound.blocks([mix]))
    assert all(own == mix for own, _ in blocks)
    return np.concatenate([block for _, block in blocks])


def test_log_mel_matches_the_definition():
    samples = noise(4000)
    found = np.concatenate(list(log_mel(iter([samples]))))
    assert found.shape == (23, 64)
    np.testing.assert_allclose(found, slow_log_mel(samples), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 3000), max_size=8))
def test_log_mel_does_not_depend_on_the_blocks(cuts):
    samples = noise(3000)
    whole = np.concatenate(list(log_mel(iter([samples]))))
    parts = np.concatenate(list(log_mel(iter(np.split(samples, sorted(cuts))))))
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), max_size=8),
    length=st.integers(1, 12),
    hop=st.integers(1, 12),
)
def test_regrouped_gives_the_pieces_of_the_whole(sizes, length, hop):
    hop = min(hop, length)
    whole = np.arange(sum(sizes))
    blocks = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
    found = [piece for pieces in regrouped(iter(blocks), length, hop) for piece in pieces.tolist()]
    assert found == [
        whole[first : first + length].tolist() for first in range(0, len(whole) - length + 1, hop)
    ]


def test_sound_gives_the_samples_of_a_file(tmp_path):
    samples = noise(20_000)
    path = write_wav(tmp_path / "noise.wav", samples)
    with Sound(path) as sound:
        found = samples_of(sound)
        assert sound.begin == 0
        assert sound.warnings() == []
    np.testing.assert_allclose(found, samples, atol=1e-4)


def test_sound_mixes_and_resamples(tmp_path):
    time = np.arange(44100) / 44100
    left = 0.5 * np.sin(2 * np.pi * 300 * time)
    stereo = np.stack([left, -0.2 * left], axis=1)
    path = write_wav(tmp_path / "stereo.wav", stereo, 44100, 2)
    with Sound(path) as sound:
        found = samples_of(sound)
    assert len(found) == pytest.approx(16000, abs=20)
    expected = 0.2 * np.sin(2 * np.pi * 300 * np.arange(len(found)) / RATE)
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=5e-3)


def test_sound_fills_gaps_between_time_stamps(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for first in (0, 3 * RATE):
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE), 8000, "<i2"), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with Sound(path) as sound:
        found = samples_of(sound)
    assert len(found) == 4 * RATE
    assert not found[RATE + 100 : 3 * RATE - 100].any()
    assert (found[3 * RATE + 100 :] > 0.2).all()


def test_sound_that_is_cut_short_says_so():
    with Sound(clips() / "damaged" / "short_audio.mp4") as sound:
        samples_of(sound)
        assert sound.warnings() == ["the sound ends at 0.3 of 2.0 s"]


def test_sound_names_a_file_without_sound():
    with pytest.raises(NoTrackError, match=r"no_audio.mp4 has no sound"):
        Sound(clips() / "damaged" / "no_audio.mp4")
    with pytest.raises(MediaError, match=r"text.mp4 cannot be read"):
        Sound(clips() / "damaged" / "text.mp4")


def test_loudness_is_that_of_the_loudest_channel(tmp_path):
    path = write_wav(tmp_path / "quiet.wav", np.full(1000, 0.01))
    heard = loudness(path, 1)
    assert heard.is_silent(0.02)
    assert not heard.is_silent(0.005)
    samples = np.zeros((5000, 3))
    samples[3000:, :2] = 0.1, -0.3
    path = write_wav(tmp_path / "three.wav", samples, n_channels=3)
    heard = loudness(path, 1)
    assert heard.mean == pytest.approx(0.2 / 3, abs=1e-4)
    assert heard.channels == pytest.approx((0.1, 0.3, 0), abs=1e-4)


def test_loudness_decodes_until_the_mean_is_loud_enough(tmp_path, monkeypatch):
    path = write_wav(tmp_path / "long.wav", noise(40 * RATE))
    n_taken = []
    mean = Mix.of
    monkeypatch.setattr(Mix, "of", lambda mix, own: n_taken.append(own.shape[1]) or mean(mix, own))
    assert not loudness(path, 1e-3).is_silent(1e-3)
    assert sum(n_taken) < RATE


def test_log_mel_view_pads_short_sound_with_silence(tmp_path):
    samples = noise(5000)
    batch, places = LogMel().read(write_wav(tmp_path / "short.wav", samples))
    assert batch.shape == (1, 96, 64)
    assert places["seconds"].tolist() == [0]
    np.testing.assert_allclose(batch[0, -20:], math.log(0.01), atol=1e-6)


@pytest.mark.parametrize(("hop", "n_rows"), [(96, 3), (48, 5)])
def test_log_mel_view_cuts_patches(tmp_path, hop, n_rows):
    samples = noise(16000 * 3)
    path = write_wav(tmp_path / "noise.wav", samples)
    batch, places = LogMel(hop=hop).read(path)
    np.testing.assert_allclose(places["seconds"], np.arange(n_rows) * hop / 100)
    with Sound(path) as sound:
        spectra = np.concatenate(list(log_mel(iter([samples_of(sound)]))))
    for first, patch in zip(range(0, 500, hop), batch, strict=False):
        np.testing.assert_array_equal(patch, spectra[first : first + 96])


@pytest.mark.parametrize(("length", "hop", "n_rows"), [(10, 5, 18), (10, None, 9), (150, 20, 0)])
def test_log_mel_view_has_patches_of_other_lengths(tmp_path, length, hop, n_rows):
    samples = noise(RATE)
    path = write_wav(tmp_path / "noise.wav", samples)
    batch, places = LogMel(length=length, hop=hop).read(path)
    padded = np.pad(samples, (0, max(0, 240 + length * 160 - len(samples))))
    spectra = slow_log_mel(padded)
    expected = [
        spectra[first : first + length]
        for first in range(0, len(spectra) - length + 1, hop or length)
    ]
    assert batch.shape == (max(n_rows, 1), length, 64)
    np.testing.assert_allclose(batch, expected, atol=2e-3)  # 16 bits of the file
    np.testing.assert_allclose(places["seconds"], np.arange(len(batch)) * (hop or length) / 100)


def test_waveforms_view_cuts_pieces(tmp_path):
    samples = noise(RATE)
    path = write_wav(tmp_path / "noise.wav", samples)
    batch, places = Waveforms(seconds=0.25, hop=0.125).read(path)
    assert batch.shape == (7, 4000)
    np.testing.assert_allclose(places["seconds"], np.arange(7) / 8)
    np.testing.assert_allclose(batch[3], samples[6000:10000], atol=1e-4)


def test_sound_views_of_silence_are_missing(tmp_path):
    path = write_wav(tmp_path / "silent.wav", np.zeros(RATE))
    assert LogMel().read(path) is None
    assert Waveforms().read(path) is None
    assert LogMel(silence=0).read(path)[0].shape == (1, 96, 64)


def test_sound_views_of_a_track_without_samples_are_missing(tmp_path):
    path = write_wav(tmp_path / "empty.wav", np.zeros(0))
    assert LogMel().read(path) is None
    assert Waveforms(silence=0).read(path) is None


def stereo_wav(path, left, right, rate=RATE):
    return write_wav(path, np.stack([left, right], axis=1), rate, 2)


def test_sound_views_of_opposite_channels_take_the_loudest_one(tmp_path):
    left = noise(2 * RATE)
    mono = write_wav(tmp_path / "mono.wav", left)
    path = stereo_wav(tmp_path / "opposite.wav", left, -left)
    for view in (LogMel(), Waveforms(silence=0)):
        warnings = []
        (chunk,) = read_views(path, {"audio": view}, warnings)
        np.testing.assert_array_equal(chunk.batch, view.read(mono)[0])
        (text,) = warnings
        assert "mean of the channels of its sound is silent, so channel 1 is used alone" in text
    louder = stereo_wav(tmp_path / "louder.wav", 0.002 * (left > 0), -0.003 * (left > 0))
    batch, _ = Waveforms(seconds=2).read(louder)
    np.testing.assert_allclose(batch[0], -0.003 * (left > 0), atol=1e-4)


def test_sound_views_of_channels_that_differ_take_their_mean(tmp_path):
    left, right = noise(2 * RATE), noise(2 * RATE, seed=1)
    warnings = []
    path = stereo_wav(tmp_path / "stereo.wav", left, right)
    (chunk,) = read_views(path, {"audio": Waveforms(seconds=2)}, warnings)
    np.testing.assert_allclose(chunk.batch[0], (left + right) / 2, atol=1e-4)
    assert warnings == []


def test_sound_views_share_one_pass(tmp_path, monkeypatch):
    path = stereo_wav(tmp_path / "noise.wav", noise(20 * RATE), noise(20 * RATE, 1))
    n_decoded, filled = [], Sound._filled

    def counted(sound):
        for frame in filled(sound):
            n_decoded.append(frame.samples)
            yield frame

    monkeypatch.setattr(Sound, "_filled", counted)
    views = {"a": LogMel(), "b": LogMel(length=10, hop=5), "c": Waveforms(rate=8000)}
    names = {chunk.name for chunk in read_views(path, views, [])}
    assert names == set(views)
    # The loudness is known after the first frames.
    assert 20 * RATE <= sum(n_decoded) < 21 * RATE


SOUND_VIEWS = [
    LogMel(),
    LogMel(hop=1, silence=0),
    LogMel(length=7, hop=3, silence=0.5),
    LogMel(length=700),
    Waveforms(seconds=0.3, hop=0.1, rate=8000),
    Waveforms(seconds=5, silence=0.05),
    Waveforms(seconds=0.01, rate=22_050),
    Waveforms(seconds=100),
]


@settings(max_examples=15, deadline=None)
@given(
    chosen=st.lists(st.sampled_from(SOUND_VIEWS), min_size=2, max_size=5),
    kind=st.sampled_from(["noise", "opposite", "silent", "quiet", "late"]),
    seconds=st.sampled_from([0.2, 1.0, 9.5]),
)
def test_sound_views_together_equal_those_read_alone(tmp_path_factory, chosen, kind, seconds):
    left = noise(int(44_100 * seconds))
    left *= {"silent": 0, "quiet": 0.01}.get(kind, 1)
    if kind == "late":
        left[: len(left) // 2] = 0
    right = -left if kind == "opposite" else 0.5 * left
    path = stereo_wav(tmp_path_factory.mktemp("sounds") / "a.wav", left, right, 44_100)
    views = {str(number): view for number, view in enumerate(chosen)}
    found = {name: [] for name in views}
    for chunk in read_views(path, views, []):
        found[chunk.name].append(chunk)
    for name, view in views.items():
        alone = list(read_views(path, {name: view}, []))
        assert len(found[name]) == len(alone)
        for own, expected in zip(found[name], alone, strict=True):
            np.testing.assert_array_equal(own.batch, expected.batch)
            np.testing.assert_array_equal(own.places["seconds"], expected.places["seconds"])


@pytest.mark.parametrize("order", [1, -1])
def test_sound_views_that_share_a_pass_stay_close_to_each_other(tmp_path, monkeypatch, order):
    """So that little is kept in memory for the view that is furthest behind."""
    path = write_wav(tmp_path / "long.wav", np.tile(noise(10 * RATE), 30))
    views = {
        "long": Waveforms(seconds=30),
        "short": Waveforms(seconds=0.5, rate=8000),
        "mel": LogMel(hop=24),
    }
    decoded, filled = [0], Sound._filled

    def counted(sound):
        for frame in filled(sound):
            decoded[0] += frame.samples / RATE
            yield frame

    monkeypatch.setattr(Sound, "_filled", counted)
    for chunk in read_views(path, dict([*views.items()][::order]), []):
        behind = decoded[0] - chunk.places["seconds"][0]
        block = 65_536 / 8000
        assert behind < 30 + 30 + 2 * block  # a row of its own, and one of another view
    assert decoded[0] >= 300


def test_sound_views_of_damaged_sound_fail_once(tmp_path, monkeypatch):
    def damaged(decoder, packet):
        decoder.n_damaged += 1
        return []

    path = write_wav(tmp_path / "noise.wav", noise(RATE))
    monkeypatch.setattr(Decoder, "decoded", damaged)
    views = {"a": LogMel(), "b": Waveforms()}
    with pytest.raises(MediaError, match="nothing can be decoded"):
        list(read_views(path, views, []))
    warnings = []
    assert list(read_views(path, views, warnings, is_tolerant=True)) == []
    (text,) = warnings
    assert "nothing can be decoded" in text


def test_sound_that_is_not_a_number_is_no_silence(tmp_path):
    path = tmp_path / "nan.wav"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_f32le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, RATE), np.nan, "f4"), "flt", "mono")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert np.isnan(Waveforms().read(path)[0]).all()


def test_sound_of_a_video_begins_at_its_own_time(tmp_path):
    path = make_media(tmp_path / "late.mp4", 25, seconds_of_sound=1.5)
    with Sound(path) as sound:
        assert float(sound.begin) == pytest.approx(0, abs=0.05)
