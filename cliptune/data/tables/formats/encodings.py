"""Tables' bytes to text: what encoding they are in, and how sure that is."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from cliptune.errors import BadData, BadInput

_MARKS = (
    # UTF-32's little-endian mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_LATIN = ("cp1252", "cp1250", "cp1254", "cp1257")
_OTHERS = ["cp1251", "cp1253", "cp1255", "cp1256", "cp932", "euc_jp",
           "gb18030", "big5", "euc_kr"]  # fmt: skip
_SAMPLE = 2**20
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
_SIGNS = frozenset("€£¥§©®™°²³µ·½¼¾×±«»„“”‘’‚–—…•†‰¡¿ \u00a0")


@dataclass(frozen=True)
class Decoded:
    """A text with the encoding that it was in."""

    text: str
    encoding: str
    note: str | None = None
    """What the user should know: that, and how, the encoding was guessed."""


def decode_text(
    data: bytes, where: str, given: str | None, option: str, preferred: str | None = None
) -> Decoded:
    """The text in `data`.

    A byte-order mark says what it is; else UTF-8 if it is, UTF-16 or UTF-32 if it can be told,
    and otherwise the likeliest of the encodings with one or two bytes a letter, with a note.

    Args:
        data: a file's bytes.
        where: names it in errors.
        given: the encoding, where the user gave it.
        option: how errors name the option to give it by.
        preferred: what an unclear encoding is rather than guessed.

    Raises:
        BadData: it is no text, or in no encoding that can be told.
        BadInput: `given` is unknown.
    """
    if given is not None:
        return _in(data, where, given, option)
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _in(data, where, encoding, option, is_said=encoding != "utf-8-sig")
    if b"\0" in data:
        return _wide(data, where, option)
    try:
        return Decoded(_checked(data.decode(), where), "utf-8")
    except UnicodeDecodeError as error:
        _refuse_damaged_utf8(data, where, error, option)
    if preferred is not None:
        return _in(data, where, preferred, option)
    return _guessed(data, where, option)


def _in(data: bytes, where: str, encoding: str, option: str, *, is_said: bool = False) -> Decoded:
    try:
        if codecs.lookup(encoding).name == "utf-8":
            encoding = "utf-8-sig"  # a mark is no part of the first column's name
        text = data.decode(encoding)
    except UnicodeError as error:
        place = f"byte {error.start} " if isinstance(error, UnicodeDecodeError) else "it "
        raise BadData(
            f"{where} is not {encoding} text: {place}can't be read "
            f"(leave {option} out to have the encoding found)"
        ) from error
    except LookupError as error:
        raise BadInput(
            f"{option} is {encoding!r}: there is no such encoding; common ones are utf-8, cp1252, "
            "latin-1, utf-16, cp1250, cp1251, shift_jis, gb18030"
        ) from error
    return Decoded(_checked(text, where), encoding, f"read as {encoding}" if is_said else None)


def _checked(text: str, where: str) -> str:
    if "\0" in text:
        raise BadData(f"{where} is not a text table: it holds NUL characters")
    return text


def _wide(data: bytes, where: str, option: str) -> Decoded:
    """UTF-16 or UTF-32 without a mark: the one in which it is a plain text of several lines."""
    readings = []
    for encoding in _WIDE:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        ascii_part = sum(c < "\x7f" for c in text) / max(1, len(text))
        if ascii_part > 0.1 and re.search(r"[\r\n]", text) and not _CONTROLS.search(text):
            readings.append(
                Decoded(text, encoding, f"read as {encoding}, without a byte-order mark")
            )
    if len(readings) != 1:
        raise BadData(
            f"{where} is not a text table: it holds NUL characters (if it is text, {option} says "
            "in which encoding)"
        )
    return readings[0]


def _refuse_damaged_utf8(data: bytes, where: str, error: UnicodeDecodeError, option: str) -> None:
    """UTF-8 with a damaged place is not another encoding: that would spoil every other letter."""
    text = data.decode(errors="replace")
    good = sum(c > "\x7f" and c != "\ufffd" for c in text)
    bad = text.count("\ufffd")
    if good > bad:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadData(
            f"{where} is UTF-8 but for {bad} place(s), the first on line {line} (byte "
            f"{error.start} can't be read): mend it, or say by {option} what it is"
        ) from error


def _guessed(data: bytes, where: str, option: str) -> Decoded:
    lines = [line for line in data.splitlines(keepends=True) if not line.isascii()]
    sample = b"".join(lines)[:_SAMPLE]
    # A letter of several bytes may be cut at the end.
    sample = sample[: sample.rfind(b"\n") + 1] or sample
    latin = (encoding for encoding in _LATIN if _reads_well(sample, encoding))
    encoding = next(latin, None) or _by_statistics(sample)
    if encoding is None:
        raise BadData(
            f"{where} is not UTF-8, and its encoding can't be told: give it by {option}, such as "
            "cp1252, latin-1, cp1250, cp1251, shift_jis, gb18030"
        )
    decoded = _in(data, where, "latin-1" if _is_latin1_only(data, encoding) else encoding, option)
    seen = re.search(r"\w*[^\W\x00-\x7f]\w*", decoded.text) or re.search(
        r"[^\x00-\x7f]", decoded.text
    )
    example = f", such as {seen.group()[:30]!r}" if seen else ""
    return Decoded(
        decoded.text,
        decoded.encoding,
        f"it is not UTF-8 and was read as {decoded.encoding}, which is a guess{example}: "
        f"where that is wrong, give {option}",
    )


def _is_latin1_only(data: bytes, encoding: str) -> bool:
    """Whether bytes occur that cp1252 does not have, but Latin-1 does."""
    return encoding == "cp1252" and any(byte in data for byte in b"\x81\x8d\x8f\x90\x9d")


def _reads_well(sample: bytes, encoding: str) -> bool:
    """Whether the text reads, in `encoding`, as languages with Latin letters do.

    Their words have few letters with accents, no signs inside, and no capital after a small
    letter.
    """
    text = sample.decode(encoding, errors="replace")
    strange = text.count("\ufffd")
    others = [m.start() for m in re.finditer(r"[^\x00-\x7f]", text)]
    for place in others:
        letter, before = text[place], text[place - 1 : place]
        after = text[place + 1 : place + 2]
        if not letter.isalpha():
            # The apostrophe and the dash stand in words, too.
            inside = before.isalpha() and after.isalpha() and letter not in "’–—·"
            strange += letter not in _SIGNS or inside
        elif letter.isupper() and before.islower():
            strange += 1
    for word in re.findall(r"[^\W\d_]{4,}", text):
        accents = sum(c > "\x7f" for c in word)
        strange += accents if accents > len(word) * 2 / 3 else 0
    return strange <= 0.1 * len(others)


def _by_statistics(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=_OTHERS).best()
    return best.encoding if best is not None and best.chaos < 0.15 else None
