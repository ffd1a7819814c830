"""Characters that look like ASCII ones and are none: what word processors, web pages and phones write instead.

Needs nothing but Python.
"""

import unicodedata

QUOTES = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\u275d\u275e\u301d\u301e\u2018\u2019\u201a\u201b\u2032\u2039\u203a"
"""Double and single ones; also prime signs and guillemets."""
ACCENTS = "`\u00b4\u02ca\u02cb"
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043\ufe58\ufe63\u00ad"
LETTERS = dict(
    zip(
        "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u04bb\u0410\u0412\u0415\u041a\u041c\u041d"
        "\u041e\u0420\u0421\u0422\u0425\u03bf\u03bd\u03b1\u0131",
        "aeopcyxijsdhABEKMHOPCTXovai",
        strict=True,
    )
)
"""Cyrillic and Greek letters that are drawn as Latin ones (Unicode TR 39, confusables.txt), and the dotless i."""


def named(text: str) -> str:
    """Each kind of look-alike and of character that cannot be seen in ``text`` with its remedy, as ``a typographic
    quote (U+201C); use "``; empty if there is none. A tab is neither."""
    found = dict[str, str]()
    for sign in text:
        if (sign.isascii() and sign.isprintable() and sign not in ACCENTS) or sign == "\t":
            continue
        if kind := _kind(sign):
            found.setdefault(kind[0], f"{kind[0]} (U+{ord(sign):04X}); {kind[1]}")
    return ", and ".join(list(found.values())[:3])


def replaced(text: str) -> str:
    """``text`` with every look-alike replaced, and without what cannot be seen."""
    return "".join(map(_ascii, text))


def _kind(sign: str) -> tuple[str, str] | None:
    """What a character is, and what to do about it; None for one that looks like no other."""
    category = unicodedata.category(sign)
    if sign in QUOTES:
        return "a typographic quote", 'use "'
    if sign in ACCENTS:
        return "an accent in place of a quote", 'use "'
    if sign in DASHES:
        return "a typographic dash", "use -"
    if category == "Zs":
        return ("a no-break space" if sign in "\u00a0\u202f" else "a typographic space"), "use a space"
    if category in ("Zl", "Zp"):
        return "a line separator", "start a new line"
    if category == "Cf":
        return "an invisible character", "remove it"
    if category == "Cc":
        return "a control character", "remove it"
    if category == "Nd" or (category == "No" and _ascii(sign) != sign):
        return "a digit that is none of 0 to 9", f"use {_ascii(sign)}"
    if (plain := _ascii(sign)) != sign:
        return f'a character that looks like "{plain}"', f"use {plain}"
    return None


def _ascii(sign: str) -> str:
    """The ASCII text that is meant; the character itself where none is."""
    if sign in QUOTES or sign in ACCENTS:
        return '"'
    if sign in DASHES:
        return "-"
    category = unicodedata.category(sign)
    if category in ("Zs", "Zl", "Zp"):
        return " "
    if category in ("Cf", "Cc"):
        return "" if sign not in "\t\n" else sign
    if category == "Nd":
        return str(unicodedata.digit(sign))
    if sign in LETTERS:
        return LETTERS[sign]
    plain = unicodedata.normalize("NFKC", sign)
    return plain if plain.isascii() and plain.isprintable() else sign
