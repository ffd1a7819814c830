"""Our engines in the box: the fallback chain, and what is reported of it."""
# ruff: noqa: F811  (fixtures are imported and then named as arguments)

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from network_files import box, fresh_trials, whole  # noqa: E402, F401

from edge import HOP_SAMPLES, cli  # noqa: E402
from edge.box import Box  # noqa: E402
from edge.config import Config, SuppressConfig  # noqa: E402
from edge.engines import AUTO, Family, names  # noqa: E402
from edge.suppress import open_engine  # noqa: E402
from edge.suppress.shipped import Model  # noqa: E402
from edge.tools.bench import speech_like  # noqa: E402


def test_a_network_that_fails_is_followed_by_the_next(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_engine("auto", 30)
    sound = speech_like(0.5).reshape(-1, HOP_SAMPLES).copy()

    def fails(*_: object) -> float:
        raise RuntimeError("on purpose")

    names = []
    for hop in sound[:6]:
        names.append(opened.name)
        monkeypatch.setattr(opened._levels[opened.level], "estimate", fails)
        opened.process(hop)
        if opened.lowest:
            break
    assert names == ["network", "rnn", "dsp"]
    assert isinstance(opened.failure, RuntimeError) and opened.name == "off"
    monkeypatch.undo()
    opened.step_up()
    assert opened.name == "network"
    opened.process(sound[10])
    assert opened.name == "network"


def test_gains_that_are_no_numbers_never_leave(box: Path) -> None:
    opened = open_engine("auto", 30)
    broken = opened._levels[0] = Model("quietbox").weights("network")
    broken._groups[0].recurrence.state[:] = np.nan
    sound = speech_like(0.5).reshape(-1, HOP_SAMPLES).copy()
    for hop in sound:
        opened.process(hop)
        assert np.isfinite(hop).all()
    assert opened.invalid == 1  # one hop passed as it was, then the state was fresh


# --- what the user sees --------------------------------------------------------------------------------------------


def test_enhance_uses_the_network_that_is_named_or_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: Path
) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", speech_like(0.3), 16_000)
    settings = tmp_path / "quietbox.toml"
    call = ["enhance", str(tmp_path / "a.wav"), "-o", str(tmp_path / "b.wav"), "--config", str(settings)]
    settings.write_text(f'[suppress]\nmodel = "{tmp_path}/none"\n')
    for named in (["--engine", "network"], []):  # a model that is named is meant, too
        assert cli.main([*call, *named]) == 1
        assert capsys.readouterr().err.startswith("quietbox: engine network cannot be used: ")
        assert not (tmp_path / "b.wav").exists()
    settings.write_text(f'[suppress]\nmodel = "{whole}"\n')
    assert cli.main([*call, "--engine", "network"]) == 0
    assert "engine network" not in capsys.readouterr().err
    assert cli.main(["bench", "--seconds", "0.3", "--config", str(settings)]) == 0
    assert "whole chain, network" in capsys.readouterr().out


def test_the_journal_says_why_once(tmp_path: Path) -> None:
    chosen = Config(suppress=SuppressConfig(model=str(tmp_path / "none")))
    running = Box(chosen)
    reported = [text for kind, text in running.health.news() if kind == "engine"]
    assert len(reported) == 1 and "none.npz is missing" in reported[0]
    running.reload(replace(chosen, suppress=SuppressConfig(engine="off")))
    assert running.health.news() == []


def test_every_name_a_user_can_write_can_be_opened(box: Path) -> None:
    for name in (AUTO, *names(Family.OURS, Family.NONE)):
        assert open_engine(name, 30).name == ("network" if name == "auto" else name)
