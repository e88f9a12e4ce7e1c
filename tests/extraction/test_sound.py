import math
import wave
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster.extraction import LogMel, Waveforms
from acluster.extraction._media import MediaError, NoTrackError
from acluster.extraction._sound import RATE, Sound, is_silent, log_mel, regrouped
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
    with Sound(path, RATE) as sound:
        found = np.concatenate(list(sound.blocks()))
        assert sound.begin == 0
        assert sound.warnings() == []
    np.testing.assert_allclose(found, samples, atol=1e-4)


def test_sound_mixes_and_resamples(tmp_path):
    time = np.arange(44100) / 44100
    left = 0.5 * np.sin(2 * np.pi * 300 * time)
    stereo = np.stack([left, -0.2 * left], axis=1)
    path = write_wav(tmp_path / "stereo.wav", stereo, 44100, 2)
    with Sound(path, RATE) as sound:
        found = np.concatenate(list(sound.blocks()))
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
    with Sound(path, RATE) as sound:
        found = np.concatenate(list(sound.blocks()))
    assert len(found) == 4 * RATE
    assert not found[RATE + 100 : 3 * RATE - 100].any()
    assert (found[3 * RATE + 100 :] > 0.2).all()


def test_sound_that_is_cut_short_says_so():
    with Sound(clips() / "damaged" / "short_audio.mp4", RATE) as sound:
        list(sound.blocks())
        assert sound.warnings() == ["the sound ends at 0.3 of 2.0 s"]


def test_sound_names_a_file_without_sound():
    with pytest.raises(NoTrackError, match=r"no_audio.mp4 has no sound"):
        Sound(clips() / "damaged" / "no_audio.mp4", RATE)
    with pytest.raises(MediaError, match=r"text.mp4 cannot be read"):
        Sound(clips() / "damaged" / "text.mp4", RATE)


def test_is_silent_compares_with_the_threshold(tmp_path):
    path = write_wav(tmp_path / "quiet.wav", np.full(1000, 0.01))
    assert is_silent(path, 0.02)
    assert not is_silent(path, 0.005)


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
    with Sound(path, RATE) as sound:
        spectra = np.concatenate(list(log_mel(sound.blocks())))
    for first, patch in zip(range(0, 500, hop), batch, strict=False):
        np.testing.assert_array_equal(patch, spectra[first : first + 96])


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


def test_sound_of_a_video_begins_at_its_own_time(tmp_path):
    path = make_media(tmp_path / "late.mp4", 25, seconds_of_sound=1.5)
    with Sound(path, RATE) as sound:
        assert float(sound.begin) == pytest.approx(0, abs=0.05)
