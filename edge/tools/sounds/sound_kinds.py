"""Which files are sounds: by their first bytes where they say so, else by suffix. At most ``HEAD_BYTES`` are read.

Two programs read sounds: libsndfile, always there, and a foreign decoder (``edge.tools.sounds.foreign_decoder``) for
what libsndfile does not know. A file is worth trying if either may read it; only trying decides.
"""

import os
import stat
from pathlib import Path

import soundfile

from edge import UserError
from edge.tools.sounds.decoder_output import captured

HEAD_BYTES = 512
HIDDEN = "hidden"


class BadSound(UserError):
    """A file that cannot be enhanced; the text is one line naming it and why."""


class NoSound(BadSound):
    """A whole file that can be read and holds no sound: a film without any."""


def _suffixes(text: str) -> frozenset[str]:
    return frozenset(text.split())


LIBSNDFILE_SUFFIXES = {
    "AIFF": ".aif .aiff .aifc",
    "AU": ".au .snd",
    "AVR": ".avr",
    "CAF": ".caf",
    "FLAC": ".flac",
    "HTK": ".htk",
    "SVX": ".svx .8svx .16sv .iff",
    "MAT4": ".mat",
    "MAT5": ".mat",
    "MPC2K": ".mpc",
    "MP3": ".mp3 .mp2 .mp1 .mpa .mpga",
    "OGG": ".ogg .oga .opus",
    "PAF": ".paf .fap",
    "PVF": ".pvf",
    "RAW": ".raw .gsm .vox",
    "RF64": ".rf64",
    "SD2": ".sd2",
    "SDS": ".sds",
    "IRCAM": ".sf .ircam",
    "VOC": ".voc",
    "W64": ".w64",
    "WAV": ".wav .wave .bwf",
    "NIST": ".nist .sph",
    "WAVEX": ".wavex",
    "WVE": ".wve",
    "XI": ".xi",
}
"""Container of ``soundfile.available_formats`` -> what its files are called."""
FOREIGN_SUFFIXES = _suffixes(
    ".m4a .m4b .m4r .mp4 .m4v .mov .3gp .3gpp .3g2 .aac .adts .amr .awb .webm .weba .mka .mkv .wma .wmv .asf .avi .flv "
    ".ac3 .eac3 .dts .ape .wv .tta .tak .dsf .dff .ra .rm .spx .qcp .mts .m2ts .mpg .mpeg .vob"
)
"""Sounds, and films with sound, that libsndfile does not read and FFmpeg does."""
UNCERTAIN_SUFFIXES = _suffixes(".mat .mpc .iff .htk .sds .sd2 .sf .xi .raw .vox .rm .mpg .mpeg .vob .mts .dts")
"""Also used for what is no sound (tables, pictures, plain data): a file of such a name that no program takes for a
sound is none, and no failure."""
SOURCES = frozenset(
    [name for names in LIBSNDFILE_SUFFIXES.values() for name in names.split()]
    + [f".{name.lower()}" for name in soundfile.available_formats()]
)
"""Suffixes of what libsndfile reads, with those of formats that a newer one may have."""
HEADERLESS = frozenset((".raw", ".pcm"))

_LIBSNDFILE_MARKS = (
    (0, b"fLaC"),
    (0, b"OggS"),
    (0, b"ID3"),
    (0, b".snd"),
    (0, b"dns."),
    (0, b"caff"),
    (0, b"riff\x2e\x91\xcf\x11"),
    (0, b"NIST_1A"),
    (0, b"Creative Voice File"),
    (0, b"2BIT"),
    (0, b"PVF1"),
    (0, b"Extended Instrument"),
    (0, b"ALawSoundFile"),
    (8, b"WAVE"),
    (8, b"AIFF"),
    (8, b"AIFC"),
    (8, b"8SVX"),
    (8, b"16SV"),
)
"""Offset and bytes there, as libsndfile looks at them (guess_file_type in its sndfile.c)."""
_FOREIGN_MARKS = (
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF: wma, wmv
    (0, b"#!AMR"),
    (0, b"ADIF"),
    (0, b"\x0b\x77"),  # AC-3
    (0, b"MAC "),  # Monkey's Audio
    (0, b"wvpk"),
    (0, b"TTA1"),
    (0, b"tBaK"),
    (0, b"MPCK"),
    (0, b"MP+"),
    (0, b"DSD "),
    (0, b"FRM8"),
    (0, b".RMF"),
    (0, b".ra\xfd"),
    (0, b"FLV\x01"),
    (0, b"\x7f\xfe\x80\x01"),  # DTS
    (0, b"\0\0\x01\xba"),  # MPEG program stream
    (8, b"AVI "),
    (8, b"QLCM"),
    (28, b"Speex   "),
    (28, b"\x80theora"),
    (28, b"fishead"),
)
_PICTURE_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"crx ")
"""ISO 14496-12 "ftyp" brands of pictures: HEIF, AVIF, Canon's raw format."""
_NO_SOUND_MARKS = (
    b"II*\0",
    b"II\x55\0",
    b"MM\0*",
    b"VOX ",
    b"MThd",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"%PDF",
    b"PK\x03\x04",
)
"""TIFF and camera pictures, voxels, notes to be played (MIDI), pictures, documents, archives."""
_PLAIN_WAVE_CODECS = (1, 2, 3, 6, 7, 0x11, 0x31, 0xFFFE)
"""wFormatTag of what every libsndfile reads in a WAV file: where it fails, the file is broken."""


def head_of(path: Path) -> bytes:
    """The first bytes of a regular file, at most ``HEAD_BYTES``; nothing of anything else. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, HEAD_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def why_no_sound(path: Path) -> str:
    """Why a file found in a folder is not worth trying, in words; empty where it is.

    What only looks like a sound, by suffix or first bytes, is worth trying: it fails with the reason.
    """
    if path.name.startswith("."):
        return HIDDEN  # also what macOS writes beside a file on foreign disks: ._x.wav, .DS_Store
    if not path.is_file():
        return "a link to nothing" if path.is_symlink() and not path.exists() else "not a plain file"
    suffix = path.suffix.lower()
    try:
        head = head_of(path)
    except OSError:
        return "" if suffix in SOURCES | FOREIGN_SUFFIXES else "cannot be read, and not named like a sound"
    if _has(head, _LIBSNDFILE_MARKS) or is_foreign(head):
        return ""
    if head.startswith(_NO_SOUND_MARKS) or head[4:12] in [b"ftyp" + brand for brand in _PICTURE_BRANDS]:
        return "no sound"
    if (suffix in SOURCES | FOREIGN_SUFFIXES and suffix not in UNCERTAIN_SUFFIXES) or suffix in HEADERLESS:
        return ""
    if (suffix in UNCERTAIN_SUFFIXES or _is_mpeg_frame(head)) and _opens(path):
        return ""
    return "no sound"


def may_be_foreign(head: bytes, suffix: str) -> bool:
    """Whether a foreign decoder may read it where libsndfile does not, by its first bytes and lower-case suffix."""
    if is_foreign(head) or head[:4] == b"caff":
        return True
    if head[8:16] == b"WAVEfmt " and head[:4] in (b"RIFF", b"RF64"):
        return int.from_bytes(head[20:22], "little") not in _PLAIN_WAVE_CODECS
    return suffix in FOREIGN_SUFFIXES and bool(head) and not _has(head, _LIBSNDFILE_MARKS)


def is_foreign(head: bytes) -> bool:
    """Whether the first bytes are of a sound, or of a film with sound, that libsndfile does not read."""
    if head[4:8] in (b"ftyp", b"moov", b"wide") and head[4:12] not in [b"ftyp" + brand for brand in _PICTURE_BRANDS]:
        return True
    if len(head) > 6 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS (ISO 13818-7): AAC without a container
        return (head[2] >> 2 & 15) < 13 and head[2] >> 6 < 3
    return _has(head, _FOREIGN_MARKS) or (len(head) > 376 and head[0] == head[188] == head[376] == 0x47)  # MPEG-TS


def without_suffix(name: Path) -> Path:
    """``name`` without the suffix of a sound; anything else after a dot is part of the name (2026.12.01)."""
    return name.with_suffix("") if name.suffix.lower() in SOURCES | FOREIGN_SUFFIXES | HEADERLESS else name


def _has(head: bytes, marks: tuple[tuple[int, bytes], ...]) -> bool:
    return any(head[at : at + len(mark)] == mark for at, mark in marks)


def _is_mpeg_frame(head: bytes) -> bool:
    """Whether it begins with the header of an MPEG-1/2 audio frame (ISO 11172-3); UTF-16 text does, too."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0 or head[:2] == b"\xff\xfe":
        return False
    return head[1] >> 3 & 3 != 1 and head[1] >> 1 & 3 != 0 and 0 < head[2] >> 4 < 15 and head[2] >> 2 & 3 != 3


def _opens(path: Path) -> bool:
    try:
        with captured([]), soundfile.SoundFile(os.fsencode(path)) as sound:
            return bool(sound.frames > 0)
    except (soundfile.LibsndfileError, TypeError, ValueError):
        return False
