"""The two pages of the gallery, both from figures.json alone: README.md, and index.html with every file inside."""

import base64
import html
from pathlib import Path
from typing import Any

from rich.table import Table

Found = dict[str, Any]
"""figures.json, as read."""
KINDS = ("clean", "noisy", "output")
"""The sounds of a recording, in the order in which they are shown."""
MEANING = (
    "SNR: level of the voice over the noise in this excerpt, pauses included. PESQ (wide band): 1.0 to 4.64. STOI: "
    "intelligibility, 0 to 1. SI-SDR: how much nearer the wave is to the clean voice. Noise removed: how much quieter "
    "the pauses between the words became. Voice kept: level of the voice in the output, 0 dB is all of it."
)
PICTURES = (
    "Pictures: time to the right, frequency upwards, bright is loud, and all three panels share one scale in dB below "
    "the loudest cells."
)
SYNTHETIC = "The noises called synthetic are computed, not recorded; their figures say less about a real room."
SEEN = (
    "The voices and the recorded noises come from material that the network was trained with, so do not expect these "
    "figures of an unknown voice: [benchmarks](../benchmarks.md) has those."
)
LICENCE = """\
All sounds and pictures in this folder are **CC BY-SA 3.0** (https://creativecommons.org/licenses/by-sa/3.0/), as are
the [pairs](../../tests/sounds/README.md) that they are made from:

| part | author and source |
|---|---|
| English voice | Allison Smith; Debian `asterisk-core-sounds-en` 1.6.1, CC BY-SA 3.0 |
| French voice | June Wallack; Debian `asterisk-core-sounds-fr` 1.6.1, CC BY-SA 3.0 |
| Italian voice | Carlo Flora; Debian `asterisk-core-sounds-it` 1.6.1, CC BY 3.0 |
| rain, people, running water | Wildfire Games; Debian `0ad-data`, CC BY-SA 3.0 |
| fan, keyboard | this project, `hw/prove/gallery/recordings.py` |

Changes made: cut to {seconds:g} s, in two of them synthetic noise added to the voice, noise removed by Quietbox in what
is called output, coded as Ogg Vorbis. The figures were measured before coding.
"""
STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:52em;margin:1em auto;padding:0 1em;color:#222;background:#fff}"
    "h1{font-size:1.5em}h2{font-size:1.2em;margin:2em 0 .3em}img{width:100%;max-width:750px;height:auto}"
    "table{border-collapse:collapse;font-size:.9em}td,th{text-align:right;padding:.15em .8em .15em 0}"
    "td:first-child,th:first-child{text-align:left}div{overflow-x:auto}"
    ".play{display:flex;align-items:center;gap:.8em;margin:.3em 0}.play b{width:4em}"
    "audio{flex:1;min-width:14em;height:2.5em}"
)
HEAD = ("noise", "SNR", "PESQ", "STOI", "SI-SDR improved by", "noise removed in pauses", "voice kept")


def figures(row: Found) -> list[str]:
    """The cells of ``HEAD`` for one recording; PESQ and STOI before and after."""
    return [
        row["noise"],
        f"{row['snr_db']:.1f} dB",
        f"{row['pesq_noisy']:.2f} → {row['pesq_output']:.2f}",
        f"{row['stoi_noisy']:.3f} → {row['stoi_output']:.3f}",
        f"{row['si_sdr_improvement_db']:.1f} dB",
        f"{row['noise_removed_db']:.1f} dB",
        f"{row['voice_kept_db']:+.1f} dB",
    ]


def caption(row: Found) -> str:
    """What a picture shows, for whoever cannot see it, too."""
    return (
        f"{row['noise']}, {row['voice']} voice: spectrograms of the clean voice, of the noisy microphone and of the "
        f"output; pauses {row['noise_removed_db']:.1f} dB quieter"
    )


def origin(found: Found) -> str:
    """By what, when and with which product the figures were measured."""
    when = f"{found['date']}, commit {found['commit']}"
    return f"`{found['command']}`, {when}, engine {found['engine']}, shipped settings"


def readme(found: Found) -> str:
    """docs/gallery/README.md."""
    rows = found["recordings"]
    parts = [
        "# Listen: five kinds of noise, before and after\n",
        "Each recording three times: the clean voice, with noise as the microphone hears it, and the output as "
        "`quietbox enhance` writes it.\n**To hear them side by side, download [index.html](index.html) and open it in "
        "a browser**: one file that holds every sound and\npicture and loads nothing from a network. The links below "
        "lead to the single sounds.\n",
        _table(HEAD, [figures(row) for row in rows]),
        f"{MEANING}\n\n{SYNTHETIC} {SEEN}\n\nMeasured by {origin(found)}.\n\n{PICTURES}\n",
    ]
    for row in rows:
        links = " · ".join(f"[{kind}]({row['name']}_{kind}.ogg)" for kind in KINDS)
        parts.append(f"## {row['noise']}\n\n![{caption(row)}]({row['name']}.png)\n\nListen: {links}\n")
    return "\n".join([*parts, "## Licence\n", LICENCE.format(seconds=found["seconds"])])


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [list(head), rule, *rows])


def index(found: Found, folder: Path) -> str:
    """docs/gallery/index.html: no script, nothing loaded from elsewhere; raises OSError if a sound is missing."""
    sections = []
    for row in found["recordings"]:
        picture = _inside(folder / f"{row['name']}.png", "image/png")
        players = "".join(_player(row["noise"], kind, folder / f"{row['name']}_{kind}.ogg") for kind in KINDS)
        sections.append(
            f'<h2>{html.escape(row["noise"])}</h2>\n<img alt="{html.escape(caption(row))}" src="{picture}">\n'
            f"{players}{_html_table(HEAD[1:], [figures(row)[1:]])}"
        )
    licence = (
        "Sounds and pictures: CC BY-SA 3.0 (https://creativecommons.org/licenses/by-sa/3.0/). Voices: Allison Smith "
        "(English), June Wallack (French), Carlo Flora (Italian; CC BY 3.0), from Debian's asterisk-core-sounds. Rain, "
        "people, water: Wildfire Games, from Debian's 0ad-data. Cut, mixed with synthetic noise where it is called so, "
        "noise removed by Quietbox, coded as Ogg Vorbis."
    )
    unlinked = SEEN.replace("[benchmarks](../benchmarks.md) has", "docs/benchmarks.md has")
    texts = [MEANING, f"{SYNTHETIC} {unlinked}", PICTURES, f"Measured by {origin(found).replace('`', '')}.", licence]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>Quietbox: before and after</title>\n'
        f"<style>{STYLE}</style></head><body>\n<h1>Quietbox: five kinds of noise, before and after</h1>\n"
        + "\n".join(sections)
        + "<h2>How to read this</h2>\n"
        + "".join(f"<p>{html.escape(text)}</p>\n" for text in texts)
        + "</body></html>\n"
    )


def _player(noise: str, kind: str, path: Path) -> str:
    name = html.escape(f"{noise}: {kind}")
    source = _inside(path, "audio/ogg")
    return (
        f'<p class="play"><b>{kind}</b><audio controls aria-label="{name}" preload="metadata" src="{source}"></audio>'
        "</p>\n"
    )


def _inside(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _html_table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div><table><tr>{top}</tr>{body}</table></div>\n"


def table(found: Found) -> Table:
    """The same figures for the terminal."""
    made = Table(title=f"gallery, engine {found['engine']}", title_justify="left")
    for name in HEAD:
        made.add_column(name, justify="left" if name == "noise" else "right")
    for row in found["recordings"]:
        made.add_row(*figures(row))
    return made
