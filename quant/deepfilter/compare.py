"""The graphs of one frame beside their owners' runtime, on pairs of clean and noisy speech."""

import math
import time
from pathlib import Path

import numpy as np
from rich.table import Table

from edge import HOP_SAMPLES, UserError
from edge import RATE_HZ as SPEECH_HZ
from edge.dsp.spectrum import Floats
from edge.suppress.blocks import Blocks
from edge.suppress.foreign.deepfilter import HOP, RATE_HZ, DeepFilter, Stage, files, open_stages
from models.measures import noise_alone, pesq_wb, si_sdr_db, stoi, without_lag
from quant.evaluate.sounds import Sound
from quant.peers import Libdf, dfn3_files


class Forgetful(Stage):
    """The graph as it is published, called with one frame: every memory is empty."""

    def run(self) -> None:
        self.reset()
        super().run()


class Variant:
    """One variant of the network, and what was measured of it."""

    def __init__(self, name: str, core: DeepFilter | Libdf, graphs: list[Path]) -> None:
        self.name = name
        self.core = core
        self.bytes = sum(file.stat().st_size for file in graphs)
        self.figures: list[tuple[float, ...]] = []
        self.spent_s: dict[bool, list[float]] = {False: [], True: []}
        """What each block took, with the decoders and, at True, without."""
        self._blocks = Blocks(self._work, RATE_HZ, HOP, core.delay_samples)
        self._walked = np.zeros(0, np.float32)

    def begin(self, samples: Floats) -> None:
        """A new sound, float32 at 16 kHz."""
        self.core.reset()
        self._blocks.reset()
        length = math.ceil((len(samples) + self._blocks.delay_samples) / HOP_SAMPLES) * HOP_SAMPLES
        self._walked = np.zeros(length, np.float32)
        self._walked[: len(samples)] = samples

    def walk(self, begin: int, end: int) -> None:
        """From hop to hop; both ends are whole hops."""
        for at in range(begin, min(end, len(self._walked)), HOP_SAMPLES):
            self._blocks.process(self._walked[at : at + HOP_SAMPLES])

    def heard(self, begin: int, length: int) -> Floats:
        return without_lag(self._walked, begin + self._blocks.delay_samples, length)

    def _work(self, block: Floats) -> None:
        begun = time.thread_time()
        self.core.process(block)
        spent_s = time.thread_time() - begun
        self.spent_s[isinstance(self.core, DeepFilter) and self.core.resting].append(spent_s)

    def row(self) -> list[str]:
        """Its line of the table."""
        pesq, intelligible, gain_db, near_db = (float(np.mean(values)) for values in zip(*self.figures, strict=True))
        working, resting = (1000 * float(np.median(spent)) if spent else math.nan for spent in self.spent_s.values())
        share = len(self.spent_s[True]) / sum(map(len, self.spent_s.values()))
        said = [f"{pesq:.3f}", f"{intelligible:.3f}", f"{gain_db:+.2f}", f"{near_db:.1f}", f"{share:.0%}"]
        said += [f"{working:.2f}", f"{resting:.2f}", f"{self.bytes / 1e6:.1f}"]
        return [self.name, *("" if value == "nan" else value for value in said)]


COLUMNS = ("PESQ", "STOI", "gain dB", "near dB", "rests", "ms", "rest ms", "MB")
"""SI-SDR gained, and SI-SDR against libdf's output; share of frames without decoders; ms for 10 ms with and without
them; size of the files."""


def variants(folder: Path, small: Path) -> list[Variant]:
    """All variants of the graphs in ``folder`` and, int8, in ``small``; the owners' runtime first if it is here."""
    graphs, small_graphs = files(str(folder)), files(str(small))
    forgetful = open_stages(graphs, Forgetful)
    found = [
        Variant("all frames", DeepFilter(*open_stages(graphs), rest_frames=math.inf), graphs),
        Variant("as it runs", DeepFilter(*open_stages(graphs)), graphs),
        Variant("int8", DeepFilter(*open_stages(small_graphs)), small_graphs),
        Variant("no memory", DeepFilter(*forgetful, rest_frames=math.inf), graphs),
        Variant("nor look-ahead", DeepFilter(*forgetful, rest_frames=math.inf, ahead=0), graphs),
    ]
    try:
        return [Variant("libdf", Libdf(), dfn3_files()), *found]
    except UserError:
        return found


def compare(found: list[Variant], sounds: list[Sound], pause_s: float) -> None:
    """Every sound through every variant, after so much of the sound's noise alone; notes the figures."""
    for sound in sounds:
        assert sound.clean is not None
        noise = noise_alone(sound.clean, sound.noisy)
        begin = 0 if noise is None else round(pause_s * SPEECH_HZ)
        samples = np.concatenate([np.resize(noise, begin), sound.noisy]) if noise is not None else sound.noisy
        for variant in found:
            variant.begin(samples.astype(np.float32))
        for at in range(0, len(samples) + SPEECH_HZ, SPEECH_HZ):
            for variant in found:
                variant.walk(at, at + SPEECH_HZ)
        owners = found[0].heard(begin, len(sound.noisy)) if isinstance(found[0].core, Libdf) else None
        for variant in found:
            heard = variant.heard(begin, len(sound.noisy))
            near_db = si_sdr_db(owners, heard) if owners is not None and variant is not found[0] else math.nan
            gain_db = si_sdr_db(sound.clean, heard) - si_sdr_db(sound.clean, sound.noisy)
            variant.figures.append((pesq_wb(sound.clean, heard), stoi(sound.clean, heard), gain_db, near_db))


def table_of(found: list[Variant], sounds: int, pause_s: float) -> Table:
    table = Table(title=f"{sounds} sounds, each after {pause_s:g} s of its noise alone", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    for variant in found:
        table.add_row(*variant.row())
    return table
