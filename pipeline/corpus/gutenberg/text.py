"""The book out of a Project Gutenberg file: decoded, without header, footer and producers' notes.

Fifty years of volunteers have left several forms of everything. A header ends with a line
`*** START OF THE PROJECT GUTENBERG EBOOK … ***`, whose title may run over lines, or, in old files,
with `*END*THE SMALL PRINT!…`; a footer begins with `*** END OF …`, `End of Project Gutenberg's …`
or its French and German kin. What then stands before the title (who produced the file, from what)
and the transcriber's notes, in brackets, in boxes or under a heading, are no part of the book.

Sharp edge: a file that speaks of Project Gutenberg but has no such markers is refused rather than
kept with a licence in it.
"""

from __future__ import annotations

import codecs
import re

from ftfy import TextFixerConfig, fix_text

START = re.compile(
    r"^[ \t]*\*{3}[ \t]*START OF TH(?:E|IS) PROJECT GUTENBERG E-?(?:BOOK|TEXT)"
    r"(?:[^*]{0,400}?\*{3}.*|.*)$"
    r"|^.*\*END[* \t]*THE SMALL PRINT!.*$"
    r"|^.*\bE(?:TEXT|BOOK)S\*(?:Ver\.[\d./]+\*)?END\*.*$",
    re.IGNORECASE | re.MULTILINE,
)
END = re.compile(
    r"^[ \t]*\*{3}[ \t]*END OF TH(?:E|IS) PROJECT GUTENBERG E-?(?:BOOK|TEXT)"
    r"|^[ \t*]*End of (?:the |this )?Project Gutenberg(?:['’]s)?\b"
    r"|^[ \t*]*(?:Ende dieses|Fin de(?: ce)?) Proje[ck]t Gutenberg"
    r"|^[ \t]*\*{3}[ \t]*START: FULL LICENSE",
    re.IGNORECASE | re.MULTILINE,
)
MENTION = re.compile(r"Project[ \t\n]+Gutenberg", re.IGNORECASE)

NOTE = r"Transcriber['’]?s?['’]?s?[ \t]+(?:end[ \t]?)?notes?"
BRACKETS = re.compile(
    rf"(?<![ \t])[ \t]*+\[{NOTE}\b[^\[\]]*+(?:\[[^\[\]]*+\][^\[\]]*+)*+\][ \t]*+\n?",
    re.IGNORECASE,
)
BOX = re.compile(
    r"^[ \t]*\+[-=+]+\+[ \t]*\n(?:[ \t]*\|.*\|[ \t]*\n)+[ \t]*\+[-=+]+\+[ \t]*$", re.MULTILINE
)
HEADING = re.compile(rf"^[ \t_=*]*{NOTE}\b[ \t_=*:.]*", re.IGNORECASE | re.MULTILINE)
CREDITS = re.compile(
    r"(?:Produced by|Prepared by|Scanned by|Transcribed (?:from|by)|"
    r"E-?text (?:prepared|produced|scanned|transcribed)|"
    r"This e-?(?:text|book) (?:was|is) (?:prepared|produced|created|transcribed|scanned)|"
    r"\[?Note: (?:Project Gutenberg|Images of the original|This file))",
    re.IGNORECASE,
)
HEAD = 6  # paragraphs of a book that may be credits or notes
TAIL = 0.85  # of the text: a heading after it begins the notes that end the file, as one
LAST = 2000  # characters before the end does

DECLARED = re.compile(rb"Character set encoding:([\w .()\t-]{1,80}+)[\r\n]", re.IGNORECASE)
# Codecs that are no encoding of texts, and some of which take longer than the text is long.
NO_ENCODINGS = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "utf_7"}
# Bytes that were decoded once too often: Ã© for é, â€™ for ’.
MOJIBAKE = re.compile("[ÃÂ][\x80-\xbf]|â(?:€|\x80)")


def decode(content: bytes) -> str | None:
    """The file's text with LF line ends, whatever it is encoded in; None where it is no text.

    UTF-8 is tried first; then what the header declares, Latin-1 and ASCII read as Windows-1252;
    text that was encoded twice is mended.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", errors="replace")
    else:
        if b"\0" in content:
            return None
        text = _decoded(content)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _mended(text) if MOJIBAKE.search(text) else text


def strip(text: str) -> str | None:
    """The book in a decoded file; None where the markers of header and footer are missing."""
    end = END.search(text)
    starts = list(START.finditer(text, 0, end.start() if end else len(text)))
    if not starts and MENTION.search(text):
        return None
    book = text[starts[-1].end() if starts else 0 : end.start() if end else len(text)]
    book = BOX.sub(_without_notes, BRACKETS.sub("", book))
    return _without_tail(_without_head(book.strip())).strip()


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    for name in (_declared(content), "cp1252"):
        try:
            return content.decode(name)
        except (LookupError, UnicodeError):
            continue
    return content.decode("latin-1")


def _declared(content: bytes) -> str:
    """The codec that the header names; cp1252 where none, or one that cp1252 holds."""
    found = DECLARED.search(content[:20_000])
    name = found[1].decode("ascii").strip().lower() if found else ""
    for known, codec in (("macroman", "mac-roman"), ("codepage-", "cp"), ("codepage ", "cp")):
        name = name.replace(known, codec)
    if not name or "8859-1" in name.split() or name in ("iso-8859-1", "latin-1", "ascii", "utf-8"):
        return "cp1252"
    name = name.split(" ")[0]
    return "cp1252" if name.replace("-", "_") in NO_ENCODINGS else name


def _mended(text: str) -> str:
    only_encoding = TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
    )
    return str(fix_text(text, only_encoding))


def _without_notes(box: re.Match[str]) -> str:
    return "" if re.search(NOTE, box[0], re.IGNORECASE) else box[0]


def _without_head(book: str) -> str:
    """The book without the credits and notes among its first paragraphs.

    A note's heading that stands alone takes what follows with it, down to a wider gap.
    """
    kept: list[str] = []
    rest = book
    for _ in range(HEAD):
        if heading := HEADING.match(rest):
            alone = rest[heading.end() : heading.end() + 1] in ("\n", "")
            gap = re.compile(r"\n{3,}" if alone else r"\n{2,}").search(rest, heading.end() + 2)
            rest = rest[gap.end() :] if gap else ""
            continue
        paragraph, _, following = rest.partition("\n\n")
        if not CREDITS.match(paragraph.lstrip()):
            kept.append(paragraph)
        rest = following.lstrip("\n") if not kept else following
    return "\n\n".join([*kept, rest]) if rest else "\n\n".join(kept)


def _without_tail(book: str) -> str:
    """The book without the notes that end it."""
    heading = HEADING.search(book, max(min(int(len(book) * TAIL), len(book) - LAST), 0))
    return book[: heading.start()] if heading else book
