"""Mixtures are what the recipe says they are: the ratio asked for, targets in place, nothing broken."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import speech

torch = pytest.importorskip("torch")

from edge import RATE_HZ  # noqa: E402
from models.command import BadRequest  # noqa: E402
from models.mix import drawn_noise, edge_kinds  # noqa: E402
from models.mix.bank import Bank, decode_once, draw_seconds, open_bank  # noqa: E402
from models.mix.edge_kinds import Kinds, is_measured  # noqa: E402
from models.mix.mixer import Mixer, Recipe, open_mixer  # noqa: E402
from models.mix.pack import pack  # noqa: E402
from models.mix.recordings import Clip, NoRecordings, found_clips, listed_clips  # noqa: E402
from models.mix.rooms import MOST_ROOM_SAMPLES, Rooms, open_rooms  # noqa: E402
from models.mix.waves import active_power, fast_length, hats, power  # noqa: E402

SAMPLES = 80 * 150
PLAIN = Recipe(
    eq_db=0,
    p_clean_only=0,
    p_noise_only=0,
    p_room=0,
    p_second_noise=0,
    p_babble=0,
    p_drawn_noise=0,
    p_tones=0,
    p_ventilation=0,
    p_pass_by=0,
    p_hum=0,
    p_self_noise=0,
    p_band_limit=0,
    p_clip=0,
    p_speed=0,
    p_noise_speed=0,
    p_late_start=0,
)
"""Nothing but speech plus one noise."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def bank(waves: list[np.ndarray]) -> Bank:
    lengths = torch.tensor([len(wave) for wave in waves])
    whole = torch.from_numpy((np.concatenate(waves) * 20_000).astype(np.int16))
    return Bank(whole, lengths.cumsum(0) - lengths, lengths, torch.full((len(waves),), 1 / len(waves)))


def make_mixer(recipe: Recipe = PLAIN, rooms: Rooms | None = None, seed: int = 5) -> Mixer:
    rng = np.random.default_rng(0)
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    talk = [np.sin(2 * np.pi * hz * time_s) * (np.sin(2 * np.pi * 3 * time_s) > -0.3) for hz in (200, 330, 900)]
    noise = [np.clip(rng.standard_normal(length) * 0.2, -1, 1) for length in (RATE_HZ, 3 * RATE_HZ, 3000)]
    return Mixer(bank(talk), bank(noise), rooms, seed, recipe)


def two_rooms() -> Rooms:
    full = torch.zeros(2, MOST_ROOM_SAMPLES)
    full[:, 0], full[0, 400], full[1, 3000] = 1, 0.5, 0.8  # reflections at 25 ms (early) and 188 ms (late)
    early = full.clone()
    early[:, 800:] = 0
    return Rooms(full, early)


def test_has_the_ratio_asked_for() -> None:
    batch = make_mixer().batch(3, 24, SAMPLES)
    noise = batch.noisy - batch.clean
    got_db = 10 * torch.log10(active_power(batch.clean) / power(noise))
    assert torch.allclose(got_db, batch.snr_db, atol=0.1)
    assert batch.snr_db.min() < 3 and batch.snr_db.max() > 17 and batch.snr_db.unique().numel() == 24


def test_levels_are_spread_and_nothing_leaves_the_range() -> None:
    batch = make_mixer(Recipe(), two_rooms()).batch(1, 64, SAMPLES)
    level_db = 10 * torch.log10(power(batch.noisy) + 1e-12)
    assert batch.noisy.abs().max() <= 1
    assert level_db.max() < -2 and level_db.min() > -45
    assert level_db.std() > 5


@pytest.mark.parametrize("seed", range(6))
def test_everything_at_once_stays_finite(seed: int) -> None:
    wild = Recipe(**{name: 0.6 for name in PLAIN.__dict__ if name.startswith("p_")} | {"p_noise_only": 0.3})
    batch = make_mixer(wild, two_rooms(), seed).batch(seed, 12, SAMPLES)
    assert batch.noisy.isfinite().all() and batch.clean.isfinite().all()
    assert batch.noisy.shape == batch.clean.shape == (12, SAMPLES)


def test_digital_silence_in_the_recordings_stays_finite() -> None:
    silent = bank([np.zeros(RATE_HZ), np.zeros(900)])
    batch = Mixer(silent, silent, two_rooms(), 1, Recipe()).batch(0, 16, SAMPLES)
    assert batch.noisy.isfinite().all() and batch.clean.isfinite().all()


def test_targets_lie_where_the_speech_is() -> None:
    recipe = replace(PLAIN, p_room=1.0, snr_db=(40.0, 40.0))
    rough = bank([np.random.default_rng(2).uniform(-1, 1, 2 * RATE_HZ)])
    batch = Mixer(rough, rough, two_rooms(), 2, recipe).batch(2, 8, SAMPLES)
    for noisy, clean in zip(batch.noisy, batch.clean, strict=True):
        lags = torch.fft.irfft(torch.fft.rfft(noisy, 2 * SAMPLES) * torch.fft.rfft(clean, 2 * SAMPLES).conj())
        assert int(lags.argmax()) == 0


def test_target_keeps_early_and_drops_late_reflections() -> None:
    click = [np.r_[0.9, np.zeros(SAMPLES - 1)]]
    quiet = replace(PLAIN, p_room=1.0, p_clean_only=1.0)
    mixer = Mixer(bank(click), bank([np.ones(50) * 0.1]), two_rooms(), 3, quiet)
    batch = mixer.batch(0, 40, SAMPLES)
    heard, clean = (wave / wave[:, :1] for wave in (batch.noisy, batch.clean))
    early, late = heard[:, 400] > 0.25, heard[:, 3000] > 0.4
    assert early.any() and late.any() and (early ^ late).all()
    assert torch.allclose(clean[early][:, 400], torch.tensor(0.5), atol=0.01)
    assert clean[late][:, 3000].abs().max() < 0.01


def test_clean_only_and_noise_only() -> None:
    clean_only = make_mixer(replace(PLAIN, p_clean_only=1.0)).batch(0, 6, SAMPLES)
    assert torch.equal(clean_only.noisy, clean_only.clean) and (clean_only.kind == 1).all()
    noise_only = make_mixer(replace(PLAIN, p_noise_only=1.0)).batch(0, 6, SAMPLES)
    assert noise_only.clean.abs().max() == 0 and (power(noise_only.noisy) > 1e-6).all() and (noise_only.kind == 2).all()


def test_clipping_flattens_the_noisy_side_only() -> None:
    batch = make_mixer(replace(PLAIN, p_clip=1.0)).batch(0, 6, SAMPLES)
    at_roof = (batch.noisy.abs() >= batch.noisy.abs().amax(1, keepdim=True) * 0.9999).float().mean(1)
    assert (at_roof > 0.002).all()
    assert (batch.clean.abs() >= batch.clean.abs().amax(1, keepdim=True) * 0.9999).float().mean(1).max() < 0.02


def test_tones_stand_out_and_bursts_come_and_go() -> None:
    def drawn(**recipe: float) -> torch.Tensor:
        return make_mixer(replace(PLAIN, p_noise_only=1.0, **recipe)).batch(0, 32, 2 * RATE_HZ).noisy

    def sizes(waves: torch.Tensor) -> torch.Tensor:
        """Per wave, by how much its loudest bin of a spectrogram exceeds the middle one of its loudest frame."""
        frames = waves.unfold(1, 2048, 1024) * torch.hann_window(2048)
        loudest = torch.fft.rfft(frames).abs()[torch.arange(len(waves)), frames.square().sum(2).argmax(1)]
        return 20 * torch.log10(loudest.amax(1) / loudest.median(1).values)

    tones, bursts = drawn(p_tones=1.0), drawn(p_drawn_noise=1.0)
    assert tones.isfinite().all() and (power(tones) > 1e-6).all() and (power(bursts) > 1e-6).all()
    assert sizes(tones).median() > sizes(bursts).median() + 10
    parts = bursts.unfold(1, 800, 800).square().mean(2)
    steady = parts.median(1).values > 0.5 * parts.mean(1)
    assert 8 < int(steady.sum()) < 28, "about half of them steady"


def test_hum_is_at_mains_frequency() -> None:
    silent, recipe = bank([np.zeros(3 * RATE_HZ)]), replace(PLAIN, p_hum=1.0, p_noise_only=1.0)
    batch = Mixer(silent, silent, None, 1, recipe).batch(0, 8, 2 * RATE_HZ)
    peaks_hz = torch.fft.rfft(batch.noisy).abs().argmax(1) / 2
    nearest = torch.stack([(peaks_hz - (peaks_hz / mains).round() * mains).abs() for mains in (50, 60)]).amin(0)
    assert (nearest <= 1.5).all() and (peaks_hz > 45).all()


def test_band_limit_empties_the_top() -> None:
    batch = make_mixer(replace(PLAIN, p_band_limit=1.0)).batch(0, 8, SAMPLES)
    spectrum = torch.fft.rfft(batch.noisy).abs().square()
    top = spectrum[:, spectrum.shape[1] * 98 // 100 :].mean(1) / spectrum.mean(1)
    assert (top < 1e-3).all()


def test_some_begin_in_silence() -> None:
    batch = make_mixer(replace(PLAIN, p_late_start=1.0)).batch(0, 8, SAMPLES)
    begins = (batch.noisy != 0).float().argmax(1)
    assert begins.max() > SAMPLES // 8 and begins.max() <= SAMPLES // 2
    assert all(clean[:begin].abs().max() == 0 for clean, begin in zip(batch.clean, begins, strict=True) if begin > 0)


def test_speed_moves_the_pitch() -> None:
    recipe = replace(PLAIN, p_speed=1.0, p_clean_only=1.0)
    pure = [np.sin(2 * np.pi * 1000 * np.arange(4 * RATE_HZ) / RATE_HZ)]
    mixer = Mixer(bank(pure), bank(pure), None, 1, recipe)
    peaks_hz = torch.fft.rfft(mixer.batch(0, 16, SAMPLES).clean).abs().argmax(1) * RATE_HZ / SAMPLES
    assert peaks_hz.min() > 895 and peaks_hz.max() < 1105 and peaks_hz.std() > 20


def test_noise_is_mixed_at_other_speeds() -> None:
    recipe = replace(PLAIN, p_noise_speed=1.0, p_noise_only=1.0)
    pure = [np.sin(2 * np.pi * 1000 * np.arange(4 * RATE_HZ) / RATE_HZ)]
    mixer = Mixer(bank(pure), bank(pure), None, 1, recipe)
    noisy = mixer.batch(0, 32, SAMPLES).noisy
    peaks_hz = torch.fft.rfft(noisy).abs().argmax(1) * RATE_HZ / SAMPLES
    assert 695 < peaks_hz.min() < 850 and 1150 < peaks_hz.max() < 1405
    assert (noisy[:, -800:].square().mean(1) > 0.5 * noisy.square().mean(1)).all(), "none ends in silence"


def test_same_seed_and_step_same_batch() -> None:
    first, second = make_mixer(Recipe()), make_mixer(Recipe())
    first.batch(4, 8, SAMPLES)
    assert torch.equal(first.batch(9, 8, SAMPLES).noisy, second.batch(9, 8, SAMPLES).noisy)
    assert not torch.equal(first.batch(9, 8, SAMPLES).noisy, first.batch(10, 8, SAMPLES).noisy)
    assert not torch.equal(first.batch(9, 8, SAMPLES).noisy, make_mixer(Recipe(), seed=6).batch(9, 8, SAMPLES).noisy)


def test_equaliser_points_add_up_to_one() -> None:
    assert torch.allclose(hats(1024, torch.device("cpu")).sum(0), torch.ones(513), atol=1e-6)
    assert fast_length(32_560) >= 32_560 and fast_length(32_560) % 2 == 0


# ---------------------------------------------------------------------------------------------- recordings


def write(folder: Path, name: str, seconds: float, rate_hz: int = RATE_HZ, channels: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(len(name)).standard_normal((int(seconds * rate_hz), channels)) * 0.1
    soundfile.write(folder / name, wave, rate_hz)
    return folder / name


def test_cache_holds_what_the_files_hold(tmp_path: Path) -> None:
    files = [write(tmp_path / "in", "a.wav", 1.0), write(tmp_path / "in", "b.flac", 0.5, 48_000, 2)]
    row = decode_once(found_clips(tmp_path / "in"), tmp_path / "cache" / "speech")
    assert len(row) == RATE_HZ * 3 // 2
    wave, _ = soundfile.read(files[0], dtype="float32")
    assert np.abs(row[:RATE_HZ] / 32767 - wave).max() < 1e-4
    before = (tmp_path / "cache" / "speech.i16").stat().st_mtime_ns
    decode_once(found_clips(tmp_path / "in"), tmp_path / "cache" / "speech")
    assert (tmp_path / "cache" / "speech.i16").stat().st_mtime_ns == before
    write(tmp_path / "in", "c.wav", 0.5)
    assert len(decode_once(found_clips(tmp_path / "in"), tmp_path / "cache" / "speech")) == RATE_HZ * 2


def test_voices_share_the_draws_not_minutes(tmp_path: Path) -> None:
    write(tmp_path / "rare", "one.wav", 100)
    for number in range(3):
        write(tmp_path / "often", f"{number}.wav", 120)
    made = open_bank(found_clips(tmp_path), tmp_path / "cache" / "speech", gap_s=0)
    rare = float(made.weights[made.lengths == 100 * RATE_HZ].sum())
    assert rare == pytest.approx(100 / 220, abs=0.01)  # 100 s against 360 s, capped at 120 s


def test_neighbouring_clips_of_a_voice_are_one_stretch(tmp_path: Path) -> None:
    file = write(tmp_path, "x.wav", 10)
    clips = [Clip(file, start, 2.0, voice) for start, voice in ((0, "ann"), (2.2, "ann"), (4.4, "bob"), (8, "bob"))]
    made = open_bank(clips, tmp_path / "cache" / "speech")
    assert sorted(made.lengths.tolist()) == [2 * RATE_HZ, 2 * RATE_HZ, round(4.2 * RATE_HZ)]


def test_noisy_recordings_are_left_out_and_bad_tables_named(tmp_path: Path) -> None:
    table = tmp_path / "speech.tsv"
    head = "file\tstart_s\tseconds\tsource\tspeaker\tfloor_rel_db\tlicence\n"
    table.write_text(head + "a.wav\t0\t2\tx\tann\t-60\tCC0\na.wav\t2\t2\tx\tbob\t-20\tCC0\n")
    assert [clip.voice for clip in listed_clips(table, tmp_path)] == ["ann"]
    table.write_text(head + "a.wav\tsoon\t2\tx\tann\t-60\tCC0\n")
    with pytest.raises(NoRecordings, match=r"speech\.tsv, line 2"):
        listed_clips(table, tmp_path)


def test_recordings_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They were not used, without a word, once."""
    soundfile.write(tmp_path / "a.wav", np.full(RATE_HZ, 0.1), RATE_HZ)
    (tmp_path / "b.m4a").write_bytes(b"\0\0\0\x1cftypM4A " + bytes(100))
    (tmp_path / "c.raw").write_bytes(bytes(100))
    (tmp_path / "notes.txt").write_text("rain on the roof")
    (tmp_path / "._a.wav").write_bytes(b"\0\5\x16\7")
    assert [clip.file.name for clip in found_clips(tmp_path)] == ["a.wav"]
    said = capsys.readouterr().err
    assert (
        "2 of its sounds cannot be read by libsndfile and are not used (b.m4a, c.raw)" in said and "\n" not in said[:-1]
    )


def test_refusals_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(NoRecordings, match="no such folder"):
        found_clips(tmp_path / "nowhere")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.wav").write_text("no sound")
    with pytest.raises(NoRecordings, match="libsndfile"):
        found_clips(tmp_path / "text")
    with pytest.raises(NoRecordings, match=r"speech\.tsv"):
        open_mixer(tmp_path, tmp_path / "cache", 1)
    write(tmp_path / "voices", "a.wav", 1)
    with pytest.raises(NoRecordings, match="no noise"):
        open_mixer(None, tmp_path / "cache", 1, speech=[tmp_path / "voices"])


def test_rooms_start_at_the_direct_sound(tmp_path: Path) -> None:
    response = np.zeros(4700)
    response[300], response[600], response[3600] = 0.9, 0.4, 0.3
    soundfile.write(tmp_path / "room.wav", response, RATE_HZ)
    soundfile.write(tmp_path / "shorter.wav", response[:2000], RATE_HZ)  # a dry room, shorter than a clip may be
    rooms = open_rooms(tmp_path)
    assert rooms is not None and len(rooms.full) == 2
    assert rooms is not None and int(rooms.full[0].argmax()) == 16
    assert rooms.early[0, 316] > 0.3 and rooms.early[0, 3316] == 0 and rooms.full[0, 3316] > 0.2


def test_pack_fits_and_trains_on_its_own(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data / "speech", "s.wav", 30)
    write(data / "noise", "n.wav", 30)
    write(data / "rir", "r.wav", 0.3)
    (data / "speech.tsv").write_text(
        "file\tstart_s\tseconds\tsource\tspeaker\tfloor_rel_db\tlicence\n"
        + "".join(f"speech/s.wav\t{s}\t2\tx\tvoice{s}\t-60\tCC0\n" for s in range(0, 30, 2))
    )
    (data / "noise.tsv").write_text(
        "file\tstart_s\tseconds\tsource\tkind\tlicence\n"
        + "".join(f"noise/n.wav\t{s}\t3\tx\tkind{s % 2}\tCC0\n" for s in range(0, 30, 3))
    )
    most_mb = 0.1
    pack(data, tmp_path / "pack", most_mb)
    size = sum(file.stat().st_size for file in (tmp_path / "pack").rglob("*") if file.is_file())
    assert size <= most_mb * 1e6
    mixer = open_mixer(tmp_path / "pack", tmp_path / "cache", 1)
    assert mixer.rooms is not None and len(mixer.speech.starts) >= 5
    assert mixer.batch(0, 4, SAMPLES).noisy.isfinite().all()


def test_a_synthetic_voice_is_drawn_a_quarter_as_often() -> None:
    assert draw_seconds("anna", 30.0) == 4 * draw_seconds("vctksyn_p225", 30.0) == 30.0
    assert draw_seconds("anna", 1e4) == 4 * draw_seconds("vctksyn_p225", 1e4) == 120.0


@pytest.mark.parametrize("kind", ["ventilation", "pass_by"])
def test_drawn_sounds_are_sounds(kind: str) -> None:
    draws = drawn_noise.Draws(torch.device("cpu"))
    draws.seed(3)
    drawn = getattr(drawn_noise, kind)(draws, 8, SAMPLES)
    assert drawn.shape == (8, SAMPLES) and torch.isfinite(drawn).all() and (power(drawn) > 0).all()
    if kind == "pass_by":
        assert drawn.min() > 0 and drawn.max() <= 1
        assert (drawn.amax(1) > 0.99).all()  # each passes within the item


# ---------------------------------------------------------------------------------------- speech at its edges


def draws_of(seed: int = 3) -> drawn_noise.Draws:
    draws = drawn_noise.Draws(torch.device("cpu"))
    draws.seed(seed)
    return draws


def pitched(wave: torch.Tensor) -> float:
    """Highest normalised autocorrelation of 64 ms frames of 2.5 to 12 ms, mean of the loud half: 1 is a tone."""
    frames = wave.unfold(0, 1024, 512) * torch.hann_window(1024)
    frames = frames[frames.square().sum(1) >= frames.square().sum(1).median()]
    found = torch.fft.irfft(torch.fft.rfft(frames, 2048).abs().square())
    return float((found[:, 40:192].amax(1) / found[:, 0]).mean())


def test_no_kinds_draw_the_batches_of_before_and_some_leave_the_other_items_alone() -> None:
    plain, mixed = make_mixer(Recipe()), make_mixer(Recipe(kinds=Kinds(0.1, 0.1, 0.1, 0.1, 0.1)))
    before, after = plain.batch(3, 24, SAMPLES), mixed.batch(3, 24, SAMPLES)
    same = (before.noisy == after.noisy).all(1)
    assert 6 <= int(same.sum()) <= 20, "the others are the ordinary recipe's"
    assert torch.equal(before.clean[same], after.clean[same])
    assert torch.equal(
        after.noisy, make_mixer(Recipe(kinds=Kinds(0.1, 0.1, 0.1, 0.1, 0.1))).batch(3, 24, SAMPLES).noisy
    )


@pytest.mark.parametrize("kind", ["whisper", "song", "quiet", "onset", "music"])
def test_each_kind_is_what_it_says(kind: str) -> None:
    recipe = replace(PLAIN, kinds=Kinds.read(f"{kind}=1"))
    batch = make_mixer(recipe).batch(1, 6, RATE_HZ)
    assert batch.noisy.isfinite().all() and batch.clean.isfinite().all() and (power(batch.clean) > 0).all()
    if kind == "whisper":
        assert max(map(pitched, batch.clean)) < 0.5
    elif kind == "song":
        assert min(map(pitched, batch.clean)) > 0.5
    elif kind == "quiet":
        levels_dbfs = 10 * torch.log10(power(batch.noisy))
        assert levels_dbfs.min() > -56 and levels_dbfs.max() < -34
    elif kind == "onset":
        begins_s = (batch.clean.abs() > 1e-4).float().argmax(1) / RATE_HZ
        assert begins_s.min() > 0.18 and batch.snr_db.min() >= 20 and batch.snr_db.max() > 35
    else:
        plain = make_mixer(PLAIN).batch(1, 6, RATE_HZ)
        assert min(map(pitched, batch.noisy - batch.clean)) > max(map(pitched, plain.noisy - plain.clean))


def test_a_whisper_keeps_the_syllables() -> None:
    talk = torch.from_numpy(speech("rain_en_5dB", 0.5, 2.0)).unsqueeze(0)
    soft = edge_kinds.whispered(draws_of(), talk)
    assert power(soft) == pytest.approx(power(talk), rel=0.01)
    assert pitched(talk[0]) > 0.5 > pitched(soft[0])
    talked, whispered = (wave[0].unfold(0, 480, 480).square().mean(1) for wave in (talk, soft))
    loud = talked > talked.max() * 1e-3
    assert np.corrcoef(talked[loud].log(), whispered[loud].log())[0, 1] > 0.5


@pytest.mark.parametrize("text", ["opera=0.1", "song", "song=much", "song=-0.1", "song=0.7,quiet=0.7", "song=nan"])
def test_kinds_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="--kinds"):
        Kinds.read(text)


def test_kinds_are_read_and_the_measured_talkers_left_out(tmp_path: Path) -> None:
    assert Kinds.read(" whisper=0.05, onset=.1,") == Kinds(whisper=0.05, onset=0.1) and not Kinds.read("").asked
    assert is_measured("ast_en_US_f_Allison") and not is_measured("kerstin")
    for voice in ("ann", "ast_it_IT_m_Carlo"):
        write(tmp_path / "speech" / voice, "x.wav", 1)
    write(tmp_path / "noise", "n.wav", 1)

    def seconds(kinds: str) -> int:
        mixer = open_mixer(None, tmp_path / "cache", 1, speech=[tmp_path / "speech"], noise=[tmp_path / "noise"],
                           recipe=Recipe(kinds=Kinds.read(kinds)))  # fmt: skip
        return int(mixer.speech.lengths.sum()) // RATE_HZ

    assert seconds("") == 2 and seconds("song=0.1") == 1
