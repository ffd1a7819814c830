"""The one I2S bus, and the pins of LED, button and knob: what else on the header has them."""

from collections.abc import Iterator

from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import OK, WARN, Finding
from hw.board import boards, bootconfig, hats, i2s, pins_taken
from hw.board.configtxt import no_files


def bus(context: Context) -> Iterator[Finding]:
    """Which card has the bus; no row off the Pi."""
    if not context.board.is_pi:
        return
    check, found = "I2S bus", claims(context)
    figures = {"claims": [str(claim) for claim in found]}
    if found and ours(context):
        words = f"{i2s.in_one_line(found)}; {bootconfig.MICROPHONE} is set as well: one of the two cards is missing"
        fix = "./install.sh --i2s-card keep, or --i2s-card replace, and restart"
        yield Finding(check, WARN, words, fix, figures)
    elif found:
        verdict = WARN if len(found) > 1 else OK
        fix = f"remove all but one, then restart: {i2s.in_one_line(found)}" if verdict is WARN else ""
        yield Finding(check, verdict, i2s.in_one_line(found), fix, figures)
    else:
        words = f"{bootconfig.MICROPHONE} has it" if ours(context) else "no overlay uses it"
        yield Finding(check, OK, words, figures=figures)


def pins(context: Context) -> Iterator[Finding]:
    """A row only where a pin of LED, button or knob is taken."""
    settings, header = context.config.panel, on_header(context)
    if not context.board.is_pi or settings.backend in ("off", "fake"):
        return
    led, button = header.panel(settings.led, settings.button)
    knob = {} if settings.knob == "off" else {"knob_clk": settings.knob_clk, "knob_dt": settings.knob_dt}
    better: dict[str, int | str] = {"led": led, "button": button}
    left = (pin for pin in header.free() if pin not in (led, button, *knob.values()))
    for name, by in header.collisions(settings.led, settings.button, **knob).items():
        pin = better[name] if name in better else next(left, None)
        fix = f"set [panel] {name} = {pin!r}".replace("'", '"') if pin is not None else 'set [panel] knob = "off"'
        yield Finding(f"pin of the {name}", WARN, f"GPIO {getattr(settings, name)} is taken by {by}", fix)


def claims(context: Context) -> tuple[i2s.Claim, ...]:
    """What uses the bus beside our overlay."""
    board = context.board
    read = boards.beside(board.config_txt) if board.config_txt else no_files
    name = f"/{board.config_txt.relative_to(context.root)}" if board.config_txt else "config.txt"
    return i2s.of_machine(boards.config_text(board), board, context.root, read, name)


def ours(context: Context) -> bool:
    """Whether our overlay is set, in whatever file."""
    board = context.board
    read = boards.beside(board.config_txt) if board.config_txt else no_files
    return bootconfig.sets(boards.config_text(board), "dtoverlay", hats.OVERLAY, board.model, read)


def on_header(context: Context) -> pins_taken.Header:
    board = context.board
    read = boards.beside(board.config_txt) if board.config_txt else no_files
    products = boards.hat_products(context.root)
    return i2s.header(boards.config_text(board), board.model, claims(context), read, products)


def instead(context: Context) -> str:
    """What to do about a missing microphone where another card has the bus; empty where none has."""
    found = claims(context)
    if not found or ours(context):
        return ""
    recording = [hat.card for claim in found for hat in claim.hats if hat.inputs and hat.card]
    use = f'restart, then choose it: [capture] device = "{recording[0]}"' if recording else "plug in a USB microphone"
    return f"{i2s.in_one_line(found)}: {use}; or ./install.sh --microphone i2s --i2s-card replace"
