"""What `quietbox watch` has shown as one HTML page that replays it: every frame inside, no network."""

import html
import json
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from edge.files import atomic
from edge.tools.watch_screen import BLOCKS, View, plain

COLUMNS, ROWS = 80, 24
"""Of the recorded screen, whatever the terminal's size."""
MOST_FRAMES = 3000
"""Five minutes, about 2 MB; of a longer time the last are kept."""
STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "h1{font-size:1.4em}pre{font:13px/1.25 'DejaVu Sans Mono',Menlo,Consolas,monospace;background:#111;color:#ddd;"
    f"padding:1em;overflow-x:auto;min-height:{ROWS * 1.25}em}}"
    "#controls:not([hidden]){display:flex;gap:.6em;align-items:center}input{flex:1}button{font:inherit}output{min-width:9em}"
)
SCRIPT = """
"use strict";
const { rows, frames } = JSON.parse(document.getElementById("frames").textContent);
const screens = [];
let lines = Array(rows).fill("");
for (const [, changes] of frames) {
  lines = lines.slice();
  for (const [row, text] of changes) lines[row] = text;
  screens.push(lines);
}
const get = id => document.getElementById(id);
let at = 0, timer = 0;
function show(index) {
  at = Math.max(0, Math.min(screens.length - 1, index));
  get("screen").textContent = screens[at].join("\\n");
  get("slider").value = at;
  get("time").textContent = frames[at][0].toFixed(1) + " s of " + frames[frames.length - 1][0].toFixed(1) + " s";
}
function pause() { clearTimeout(timer); timer = 0; get("play").textContent = "Play"; }
function next() {
  if (at + 1 >= screens.length) { pause(); return; }
  timer = setTimeout(() => { show(at + 1); next(); }, Math.min(1000, 1000 * (frames[at + 1][0] - frames[at][0])));
}
get("play").onclick = () => {
  if (timer) { pause(); return; }
  if (at + 1 >= screens.length) show(0);
  get("play").textContent = "Pause"; next();
};
get("back").onclick = () => { pause(); show(at - 1); };
get("on").onclick = () => { pause(); show(at + 1); };
get("slider").max = screens.length - 1;
get("slider").oninput = () => { pause(); show(Number(get("slider").value)); };
get("controls").hidden = false;
show(0);
"""


class Recording:
    """The last ``MOST_FRAMES`` frames; lines that stay are kept once."""

    def __init__(self, most: int = MOST_FRAMES) -> None:
        self._frames: deque[tuple[float, tuple[str, ...]]] = deque(maxlen=most)
        self._ended_s = 0.0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, view: View, at_s: float) -> None:
        """What ``view`` shows at ``at_s`` (CLOCK_MONOTONIC)."""
        now = plain(view.lines(COLUMNS, ROWS, BLOCKS, at_s))
        now += [""] * (ROWS - len(now))
        before = self._frames[-1][1] if self._frames else now
        lines = tuple(old if old == new else new for old, new in zip(before, now, strict=True))
        self._frames.append((at_s, lines))
        self._ended_s = time.time()

    def page(self) -> str:
        """The page of at least one frame."""
        return page([*self._frames], self._ended_s)

    def write(self, target: Path) -> None:
        """The page as ``target``, whole or not at all. Raises OSError."""
        atomic.write(target, self.page().encode("utf-8", "replace"))


def page(frames: Sequence[tuple[float, tuple[str, ...]]], ended_s: float) -> str:
    """Frames, each with its time in seconds and ``ROWS`` lines, as a page; ``ended_s``: since the epoch. Without a
    script it shows the last."""
    before: tuple[str, ...] = ("",) * ROWS
    began_s, changes = frames[0][0], []
    for at_s, lines in frames:
        changed = [[row, line] for row, line in enumerate(lines) if line != before[row]]
        changes.append([round(at_s - began_s, 2), changed])
        before = lines
    data = json.dumps({"rows": ROWS, "frames": changes}, ensure_ascii=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # no text may end the script element
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ended_s))
    duration_s = frames[-1][0] - began_s
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Quietbox, recorded</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        f"<style>{STYLE}</style></head><body>\n"
        f"<h1>Quietbox, {duration_s:.0f} s until {when}</h1>\n"
        f'<pre id="screen">{html.escape(chr(10).join(before))}</pre>\n'
        '<div id="controls" hidden><button type="button" id="play">Play</button>\n'
        '<button type="button" id="back" aria-label="one frame back">&lt;</button>\n'
        '<button type="button" id="on" aria-label="one frame on">&gt;</button>\n'
        '<input type="range" id="slider" min="0" value="0" aria-label="frame"><output id="time"></output></div>\n'
        f'<script type="application/json" id="frames">{data}</script>\n<script>{SCRIPT}</script>\n'
        "</body></html>\n"
    )
