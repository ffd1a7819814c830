"""The suppressor, defined once: 64 band powers in, 64 gains and a speech probability out, 200 times a second.

Weights are shared over frequency, so that each is used many times a hop: one patch layer and one memory serve all
sixteen groups of four bands; between them a narrow full-band layer with a memory of its own ties the groups together.
``step`` is ``forward`` with one hop; the whole streaming state is one flat vector.
"""

import torch
from torch import Tensor, nn

from edge import HOP_SAMPLES
from edge.dsp.spectrum import (
    BANDS,
    BINS,
    DELAY_SAMPLES,
    POWER_FLOOR,
    SILENCE,
    WINDOW_SAMPLES,
    analysis_window,
    band_weights,
    synthesis_window,
)
from edge.suppress.network import LEVEL_EPS, LEVEL_KEEP, Shape
from models.recurrence import remember

LEVEL_BLOCK_HOPS = 1500
"""The mean over a sequence is a product with a square matrix of hops; longer sequences go in blocks of this many."""


class GroupMemory(nn.Module):
    """(batch, hops, groups, channels) -> the same: one memory for all groups, each with a state of its own."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        self.shape = shape
        self.gates = nn.Linear(channels, 3 * channels)
        self.back = nn.Linear(channels, channels)
        self.state_size = shape.groups * channels
        open_slowly(self.gates)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        batch, hops = x.shape[:2]
        gates = self.gates(x).reshape(batch, hops, self.shape.groups, 3, self.shape.channels)
        shown, last = remember(gates, state.reshape(batch, self.shape.groups, self.shape.channels))
        return x + self.back(shown), last.reshape(batch, -1)


class FullBandMemory(nn.Module):
    """(batch, hops, groups, channels) -> the same, and what the memory shows, (batch, hops, hidden)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.narrow = nn.Linear(shape.channels, shape.squeeze)
        self.gates = nn.Linear(shape.flat, 3 * shape.hidden)
        self.back = nn.Linear(shape.hidden, shape.flat)
        self.widen = nn.Linear(shape.squeeze, shape.channels)
        self.state_size = shape.hidden
        open_slowly(self.gates)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, hops = x.shape[:2]
        narrow = self.narrow(x).reshape(batch, hops, self.shape.flat)
        gates = self.gates(narrow).reshape(batch, hops, 1, 3, self.shape.hidden)
        shown, last = remember(gates, state.unsqueeze(1))
        shown = shown.squeeze(2)
        back = torch.relu(self.back(shown)).reshape(batch, hops, self.shape.groups, self.shape.squeeze)
        return x + self.widen(back), shown, last.squeeze(1)


def level_free(features: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Features (batch, hops, 64) less their running mean over bands and time: the same sound at any level looks alike.

    ``level`` (batch, 2) is the sum so far and its weight, both forgetting; from zeros the mean is right at once. Hops
    of digital silence weigh nothing, so that after a muted microphone the first sound sets the level as at a start.
    """
    hops = features.shape[1]
    if hops > LEVEL_BLOCK_HOPS:
        first, level = level_free(features[:, :LEVEL_BLOCK_HOPS], level)
        rest, level = level_free(features[:, LEVEL_BLOCK_HOPS:], level)
        return torch.cat([first, rest], 1), level
    age = torch.arange(hops, device=features.device)
    since = (age.unsqueeze(1) - age.unsqueeze(0)).float()
    forget = torch.where(since >= 0, LEVEL_KEEP ** since.clamp(min=0), 0.0)
    faded = LEVEL_KEEP ** (age.float() + 1)
    means = features.mean(2)
    heard = ((means - SILENCE) * 4).clamp(0, 1)
    total = (means * heard) @ forget.T + level[:, :1] * faded
    weight = heard @ forget.T + level[:, 1:] * faded
    level = torch.stack([total[:, -1], weight[:, -1]], 1)
    return features - (total / (weight + LEVEL_EPS)).unsqueeze(2), level


def open_slowly(gates: nn.Linear) -> None:
    """Spread the memories' time constants at the start from 2 to 400 hops (10 ms to 2 s)."""
    width = gates.out_features // 3
    hops = torch.logspace(0.3, 2.6, width)[torch.randperm(width)]
    with torch.no_grad():
        gates.bias[:width] = torch.logit(1 / hops)


class Network(nn.Module):
    """Band powers (batch, hops, 64) -> gains (batch, hops, 64) in [0, 1], speech (batch, hops) in [0, 1], state."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        seen = (shape.past_hops + 1) * 2 * shape.stride_bands
        self.patch = nn.Linear(seen, shape.channels)
        self.place = nn.Parameter(torch.randn(shape.groups, shape.channels) * 0.3)
        self.groups = nn.ModuleList(GroupMemory(shape) for _ in range(shape.rounds + 1))
        self.full = nn.ModuleList(FullBandMemory(shape) for _ in range(shape.rounds))
        self.join = nn.Linear(3 * shape.channels, shape.channels)
        self.spread = nn.Linear(shape.channels, shape.stride_bands)
        self.speech = nn.Linear(shape.hidden, 1)
        sizes = [2, shape.past_hops * BANDS, *(part.state_size for part in (*self.groups, *self.full))]
        self.state_sizes: list[int] = [int(size) for size in sizes]
        self.silence: Tensor
        self.register_buffer("silence", torch.zeros(sum(self.state_sizes)))

    @property
    def state_size(self) -> int:
        return sum(self.state_sizes)

    def fresh_state(self, batch: int = 1) -> Tensor:
        """(batch, state_size): what digital silence leaves behind, as far as ``settle`` has found it."""
        return self.silence.expand(batch, -1)

    @torch.no_grad()
    def settle(self) -> None:
        """Find the state that silence leads to and begin with it: then a start and a long pause are the same thing.

        With memories of fixed weights there is one such state; two minutes of silence are enough for the slowest.
        """
        quiet = features_of(torch.zeros(1, 500, BANDS, device=self.place.device))
        state = torch.zeros(1, self.state_size, device=self.place.device)
        for _ in range(48):
            before = state
            _, _, state = self.logits(quiet, before)
            if (state - before).abs().max() < 1e-5:
                break
        self.silence.copy_(state[0])

    def forward(self, features: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        gains, speech, state = self.logits(features, state)
        return torch.sigmoid(gains), torch.sigmoid(speech), state

    def step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (batch, 64) and state (batch, state_size) -> gains (batch, 64), speech (batch,), next state."""
        gains, speech, state = self.forward(features.unsqueeze(1), state)
        return gains.squeeze(1), speech.squeeze(1), state

    def logits(self, features: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """``forward`` before the last sigmoids."""
        batch, hops = features.shape[:2]
        level, earlier, *memories = (self.fresh_state(batch) if state is None else state).split(self.state_sizes, 1)
        group_states, full_states = [], []

        features, level = level_free(features, level)
        history = torch.cat([earlier.reshape(batch, self.shape.past_hops, BANDS), features], 1)
        x = torch.relu(self.patch(self.patches(history, hops))) + self.place
        for index, group in enumerate(self.groups):
            x, last = group(x, memories[index])
            group_states.append(last)
            if index < len(self.full):
                x, shown, last = self.full[index](x, memories[len(self.groups) + index])
                full_states.append(last)
        around = nn.functional.pad(x, (0, 0, 1, 1))
        joined = torch.cat([around[:, :, :-2], x, around[:, :, 2:]], 3)
        gains = self.spread(torch.relu(self.join(joined))).reshape(batch, hops, BANDS)
        speech = self.speech(shown).squeeze(2)
        kept = history[:, hops:].reshape(batch, -1)
        return gains, speech, torch.cat([level, kept, *group_states, *full_states], 1)

    def patches(self, history: Tensor, hops: int) -> Tensor:
        """(batch, past + hops, 64) -> (batch, hops, groups, (past + 1) x 2 stride): the bands around each group."""
        stride = self.shape.stride_bands
        bands = nn.functional.pad(history, (stride // 2, stride // 2)).unfold(2, 2 * stride, stride)
        return torch.cat([bands[:, past : past + hops] for past in range(self.shape.past_hops + 1)], 3)


def deepened(weights: dict[str, Tensor], shape: Shape, network: Network) -> dict[str, Tensor]:
    """Weights of ``shape`` for a ``network`` of more rounds: those put in front add nothing until they have learnt."""
    more = network.shape.rounds - shape.rounds
    whole = dict(network.state_dict())
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        index, _, rest = rest.partition(".")
        whole[f"{part}.{int(index) + more}.{rest}" if part in ("groups", "full") else name] = value
    for added in range(more):
        for part in (f"groups.{added}.back", f"full.{added}.widen"):
            for name in (f"{part}.weight", f"{part}.bias"):
                whole[name] = torch.zeros_like(whole[name])
    whole["silence"] = network.silence  # of another size; found anew by ``settle``
    return whole


class Spectrum(nn.Module):
    """edge.dsp.spectrum.Transform for whole batches of waves, with gradients: the same windows, hops and delay."""

    delay_samples = DELAY_SAMPLES
    """How far what ``synthesise`` returns lies behind what ``analyse`` took."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("analysis", torch.from_numpy(analysis_window()))
        self.register_buffer("synthesis", torch.from_numpy(synthesis_window()))
        self.register_buffer("bands", torch.from_numpy(band_weights()))

    analysis: Tensor
    synthesis: Tensor
    bands: Tensor

    def analyse(self, wave: Tensor) -> Tensor:
        """(batch, samples), samples a multiple of 80 -> complex64 (batch, hops, 161)."""
        frames = nn.functional.pad(wave, (WINDOW_SAMPLES - HOP_SAMPLES, 0)).unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
        return torch.fft.rfft(frames * self.analysis)

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """complex64 (batch, hops, 161) -> (batch, samples), one hop behind the wave that was analysed."""
        frames = torch.fft.irfft(spectrum, WINDOW_SAMPLES)[..., -2 * HOP_SAMPLES :] * self.synthesis
        head, tail = frames[..., :HOP_SAMPLES], frames[..., HOP_SAMPLES:]
        before = nn.functional.pad(tail[:, :-1], (0, 0, 1, 0))
        return (head + before).flatten(1)

    def features(self, spectrum: Tensor) -> Tensor:
        """complex64 (..., 161) -> float32 (..., 64): logarithm of band power, about -2.5 to 2.5."""
        power = spectrum.real.square() + spectrum.imag.square()
        return features_of(power @ self.bands.T)

    def weigh(self, spectrum: Tensor, gains: Tensor) -> Tensor:
        """Band gains (..., 64) spread over the 161 bins of a spectrum."""
        return spectrum * (gains @ self.bands)


def features_of(band_power: Tensor) -> Tensor:
    """Band powers as edge.dsp.spectrum gathers them -> what the network reads: (log10(power + floor) + 1) / 2."""
    return (torch.log10(band_power + POWER_FLOOR) + 1) / 2


def enhance(network: Network, spectrum: Spectrum, wave: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, samples) -> the enhanced waves, one hop late, and speech logits (batch, hops)."""
    bins = spectrum.analyse(wave)
    gains, speech, _ = network.logits(spectrum.features(bins))
    return spectrum.synthesise(spectrum.weigh(bins, torch.sigmoid(gains))), speech


assert BINS == WINDOW_SAMPLES // 2 + 1
