"""What `quietbox enhance` makes of several channels: the mean, or fewer of them where the mean loses the voice."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import level_db, recording, speech

from edge import RATE_HZ, cli
from edge.config import Config, SuppressConfig
from edge.dsp.spectrum import Floats
from edge.tools.sounds.channels import MAX_LOSS_DB, Downmix
from edge.tools.sounds.enhance import enhance_file
from edge.tools.tables import enhanced

SECONDS = 8.0
VOICE = speech("rain_en_5dB", 0, SECONDS)
OTHER = speech("tavern_fr_10dB", 0, SECONDS)[: len(VOICE)]
VOICE = VOICE[: len(OTHER)]


def hiss(seed: int, level_dbfs: float = -70) -> Floats:
    return (10 ** (level_dbfs / 20) * np.random.default_rng(seed).standard_normal(len(VOICE))).astype(np.float32)


def delayed(samples: int) -> Floats:
    return np.concatenate([np.zeros(samples, np.float32), VOICE[: len(VOICE) - samples]])


def mixed(channels: Sequence[Floats], rate_hz: int = RATE_HZ, block: int = 4096) -> tuple[Floats, Downmix]:
    frames = np.stack(channels, 1).astype(np.float32)
    downmix = Downmix(len(channels), rate_hz)
    ready = [downmix.push(frames[at : at + block].copy()) for at in range(0, len(frames), block)]
    return np.concatenate([*ready, downmix.flush()]), downmix


ORDINARY = {
    "the same in both": [VOICE, VOICE],
    "one live of two": [VOICE, 0 * VOICE],
    "panned": [VOICE, 0.3 * VOICE],
    "two talkers": [VOICE, OTHER],
    "second channel inverted, 16 dB weaker": [VOICE, -0.15 * VOICE],
    "microphones 34 cm apart": [VOICE + hiss(1), delayed(16) + hiss(2)],
    "microphones 1.7 m apart": [VOICE + hiss(1), 0.8 * delayed(80) + hiss(2)],
    "four talkers": [VOICE, OTHER, VOICE[::-1], OTHER[::-1]],
    "eight talkers": [part for lag in range(4) for part in (np.roll(VOICE, 9001 * lag), np.roll(OTHER, 7001 * lag))],
    "silence": [0 * VOICE, 0 * VOICE],
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_an_ordinary_recording_gets_the_mean_sample_for_sample(kind: str) -> None:
    got, downmix = mixed(ORDINARY[kind])
    np.testing.assert_array_equal(got, np.stack(ORDINARY[kind], 1).astype(np.float32).mean(axis=1))
    assert downmix.note == "" and set(downmix.seconds) == {"all"}


HUM = (0.1 * np.sin(2 * np.pi * 50 / RATE_HZ * np.arange(len(VOICE)))).astype(np.float32)
LOST = {
    "opposite phase": ([VOICE, -VOICE], {"1"}),
    "inverted and louder": ([0.5 * VOICE, -VOICE], {"2"}),
    "inverted at half the gain": ([VOICE, -0.5 * VOICE], {"1"}),
    "inverted and 0.1 ms late": ([delayed(2), -VOICE], {"1", "2"}),
    "opposite phase with hum in both": ([VOICE + HUM, HUM - VOICE], {"1", "2"}),
    "one live of four": ([hiss(1), hiss(2), VOICE, hiss(3)], {"3"}),
    "one live of eight": ([*[0 * VOICE] * 7, VOICE], {"8"}),
    "two live of eight": ([VOICE, *[hiss(1)] * 6, OTHER], {"1+8"}),
    "four in pairs of opposite phase": ([VOICE, -VOICE, VOICE, -VOICE], {"1", "2", "3", "4"}),
}


@pytest.mark.parametrize("kind", LOST)
def test_a_voice_that_the_mean_would_lose_is_kept(kind: str) -> None:
    channels, expected = LOST[kind]
    got, downmix = mixed(channels)
    assert set(downmix.seconds) <= expected
    assert sum(downmix.seconds.values()) == pytest.approx(len(VOICE) / RATE_HZ, abs=0.01)
    assert level_db(got) > level_db(VOICE) - 7 and f"mixing all {len(channels)} would lose" in downmix.note
    assert downmix.loss_db > MAX_LOSS_DB


@pytest.mark.parametrize("rate_hz", [4_000, 8_000, 44_101, 192_000])
def test_any_rate_is_decided_alike(rate_hz: int) -> None:
    assert set(mixed([VOICE, -VOICE], rate_hz)[1].seconds) == {"1"}
    assert set(mixed([VOICE, VOICE], rate_hz)[1].seconds) == {"all"}


def test_a_recording_that_changes_on_the_way_is_followed_without_a_click() -> None:
    half = len(VOICE) // 2
    second = np.concatenate([VOICE[:half], -VOICE[half:]])
    got, downmix = mixed([VOICE, second])
    assert set(downmix.seconds) == {"all", "1"} and "channel 1 only for 3.9 s" in downmix.note
    np.testing.assert_array_equal(got[:40_000], VOICE[:40_000])
    np.testing.assert_array_equal(got[60_000:], VOICE[60_000:])
    tone = np.sin(2 * np.pi * 400 / RATE_HZ * np.arange(12 * RATE_HZ)).astype(np.float32)
    turned = np.concatenate([tone[: 6 * RATE_HZ], -0.2 * tone[6 * RATE_HZ :]])
    turned = np.concatenate([turned, turned])
    got, _ = mixed([np.concatenate([tone, tone]), turned], block=RATE_HZ)
    assert np.abs(np.diff(got)).max() < 1.05 * np.abs(np.diff(tone)).max()


def test_few_samples_and_many_channels_are_held() -> None:
    """An hour of silence, a second at a time: no more than a window is held; nor with 400 channels."""
    for channels, rate_hz in ((2, RATE_HZ), (400, 48_000)):
        downmix = Downmix(channels, rate_hz)
        block = np.zeros((rate_hz // 4, channels), np.float32)
        for _ in range(20):
            downmix.push(block)
            assert sum(part.size for part in downmix._held) < 5_000_000
            assert sum(map(len, downmix._held)) <= 3 * rate_hz


@pytest.mark.parametrize("samples", [1, 2, 79, 5_000])
def test_short_files_come_out_whole(samples: int) -> None:
    got, downmix = mixed([VOICE[20_000 : 20_000 + samples], -VOICE[20_000 : 20_000 + samples]])
    assert len(got) == samples and sum(downmix.frames.values()) == samples


def test_the_command_says_what_it_took_and_no_longer_writes_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voice = recording("noisy", "rain_en_5dB", 4)
    source = tmp_path / "opposite.wav"
    soundfile.write(source, np.stack([voice, -voice], 1), RATE_HZ)
    assert cli.main(["enhance", str(source), "-o", str(tmp_path / "x.wav"), "--json", "--engine", "dsp"]) == 0
    said = json.loads(capsys.readouterr().out)[0]
    assert said["channels"] == 2 and said["mixed_s"] == {"1": 4.0}
    assert said["notes"] == ["channel 1 only (mixing all 2 would lose over 120 dB)"]
    assert said["level_out_dbfs"] > -40
    chosen = Config(suppress=SuppressConfig(engine="dsp"))
    one = enhance_file(source, tmp_path / "one.wav", chosen, channel=1)
    assert one.mixed_s == {"1": 4.0} and one.notes == []
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "x.wav").read_bytes()
    result = enhance_file(source, tmp_path / "x.wav", chosen)
    assert enhanced(result).endswith("; channel 1 only (mixing all 2 would lose over 120 dB)")
