import numpy as np
import pytest
from scipy.io import wavfile
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from acluster.datasets import load_fsdd
from acluster.datasets._fsdd import log_mel_spectrogram

RATE = 8000


def tone(frequency, n_samples):
    return np.sin(2 * np.pi * frequency * np.arange(n_samples) / RATE)


def write(home, digit, speaker, index, n_samples=2000, frequency=1000.0):
    folder = home / "fsdd" / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    samples = (2**14 * tone(frequency, n_samples)).astype(np.int16)
    wavfile.write(folder / f"{digit}_{speaker}_{index}.wav", RATE, samples)


def test_sets_targets_and_split(tmp_path):
    for digit in (7, 2):
        for index in (4, 5, 10):
            write(tmp_path, digit, "theo", index, n_samples=600 * (index - 3))
    digits = load_fsdd(data_home=tmp_path, n_mels=8, patch_frames=3, patch_hop=2)
    np.testing.assert_array_equal(digits.target, [2, 2, 2, 7, 7, 7])
    assert set(digits.speaker) == {"theo"}
    np.testing.assert_array_equal(digits.test_indices, [1, 4])  # 10, 4, 5 in the order of names
    np.testing.assert_array_equal(digits.train_indices, [0, 2, 3, 5])
    assert digits.data.n_features == 24
    frames = [1 + (600 * (index - 3) - 200) // 80 for index in (10, 4, 5)] * 2
    np.testing.assert_array_equal(digits.data.lengths, [1 + (n - 3) // 2 for n in frames])
    assert digits.DESCR.startswith("Free Spoken Digit")


def test_patches_are_consecutive_frames(tmp_path):
    write(tmp_path, 0, "ann", 0, n_samples=1000)
    fine = load_fsdd(data_home=tmp_path, n_mels=5, patch_frames=1, patch_hop=1).data[0]
    patches = load_fsdd(data_home=tmp_path, n_mels=5, patch_frames=3, patch_hop=2).data[0]
    for number, patch in enumerate(patches):
        np.testing.assert_array_equal(patch.reshape(3, 5), fine[2 * number : 2 * number + 3])


def test_log_mel_spectrogram_of_a_tone_peaks_in_its_band():
    low, high = (log_mel_spectrogram(tone(f, 4000), 20).mean(axis=0) for f in (300, 3000))
    assert low.argmax() < high.argmax()
    mel = 2595 * np.log10(1 + np.array([3000, RATE / 2]) / 700)
    assert high.argmax() == pytest.approx(mel[0] / mel[1] * 21 - 1, abs=1)


def test_log_mel_spectrogram_has_the_energy_of_the_signal():
    samples = tone(1000, 200)
    windowed = samples * np.hanning(200)
    # By Parseval's theorem: twice the power at positive frequencies over the transform's length.
    # The overlapping bands sum to 1 at every frequency.
    energy = np.exp(log_mel_spectrogram(samples, 40)).sum() * 2 / 256
    assert energy == pytest.approx((windowed**2).sum(), rel=0.05)


def test_short_recording_gives_one_patch(tmp_path):
    write(tmp_path, 1, "ann", 0, n_samples=50)
    data = load_fsdd(data_home=tmp_path, n_mels=4, patch_frames=10).data
    assert data.lengths == [1]
    assert np.isfinite(data[0]).all()


def test_load_fsdd_rejects(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recordings such as"):
        load_fsdd(data_home=tmp_path)
    write(tmp_path, 1, "ann", 0)
    stereo = np.zeros((100, 2), np.int16)
    wavfile.write(tmp_path / "fsdd/recordings/1_ann_1.wav", RATE, stereo)
    with pytest.raises(
        ValueError,
        match=r"1_ann_1.wav has a sample rate of 8000 Hz, dtype int16 and shape \(100, 2\)",
    ):
        load_fsdd(data_home=tmp_path)
    for name, value in {"patch_hop": 0, "n_mels": 81, "patch_frames": 2.5}.items():
        with pytest.raises(ValueError, match=f"{name}={value} must be an int of at least 1"):
            load_fsdd(data_home=tmp_path, **{name: value})
    content = (tmp_path / "fsdd/recordings/1_ann_0.wav").read_bytes()
    no_samples, no_alignment = content[:36], content[:32] + bytes(2) + content[34:]
    for damaged in (b"garbage", content[:20], no_samples, no_alignment):
        (tmp_path / "fsdd/recordings/1_ann_1.wav").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"1_ann_1\.wav cannot be read: .* Replace it"):
            load_fsdd(data_home=tmp_path)


def test_every_mel_band_has_a_frequency():
    from acluster.datasets import _fsdd

    assert _fsdd._mel_filters(_fsdd._MAX_MELS).sum(axis=0).min() > 0


def test_load_fsdd_of_the_real_recordings(data_home):
    if not (data_home / "fsdd").exists():
        pytest.skip("there is no fsdd in the data home")
    digits = load_fsdd(data_home=data_home)
    assert len(digits.data) == 3000
    assert len(digits.test_indices) == 300
    assert (np.bincount(digits.target) == 300).all()
    means = np.stack([patches.mean(axis=0) for patches in digits.data])
    means = (means - means.mean(axis=0)) / means.std(axis=0)
    train, test = digits.train_indices, digits.test_indices
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)
    model.fit(means[train], digits.target[train])
    assert model.score(means[test], digits.target[test]) > 0.85
