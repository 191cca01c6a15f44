"""The book out of the file, for every form of header, footer, note and encoding."""

from __future__ import annotations

import time

import pytest

from pipeline.corpus.gutenberg.text import decode, strip
from tests.helpers.bookshop import FORMS, LICENCE

BOOK = "CHAPTER I\n\nIt was late.\n\n\nCHAPTER II\n\n* * *\n\nIt was *** later."

HEADERS = {
    "modern": "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***",
    "this": "*** START OF THIS PROJECT GUTENBERG EBOOK EMMA ***",
    "no blank": "***START OF THE PROJECT GUTENBERG EBOOK EMMA***",
    "no title": "*** START OF THIS PROJECT GUTENBERG EBOOK ***",
    "etext": "*** START OF THE PROJECT GUTENBERG ETEXT EMMA ***",
    "e-book": "***START OF THE PROJECT GUTENBERG E-BOOK EMMA***",
    "two lines": "***START OF THE PROJECT GUTENBERG EBOOK EMMA, OR\nWHAT CAME OF IT***",
    "broken by blanks": "***START OF THE PROJECT GUTENBERG EBOOK EMMA: PROJECT\n\n\nGUTENBERG***",
    "never closed": "*** START OF THE PROJECT GUTENBERG EBOOK EMMA",
    "small print": "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
    "small print, no star": "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
    "small print, later": "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*",
    "small print, copyright": "*SMALL PRINT! Ver.03.17.96 FOR COPYRIGHT PROTECTED ETEXTS*END*",
}
FOOTERS = {
    "modern": "*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***",
    "this": "*** END OF THIS PROJECT GUTENBERG EBOOK EMMA ***",
    "no blank": "***END OF THE PROJECT GUTENBERG EBOOK EMMA***",
    "possessive": "End of Project Gutenberg's Emma, by Jane Austen",
    "the etext": "End of the Project Gutenberg Etext of Emma",
    "this etext": "End of this Project Gutenberg Etext of Emma",
    "starred": "*End of The Project Gutenberg Etext of Emma*",
    "both": "End of Project Gutenberg's Emma\n\n*** END OF THIS PROJECT GUTENBERG EBOOK EMMA ***",
    "German": 'Ende dieses Projekt Gutenberg Etextes "Emma"',
    "French": "Fin de Project Gutenberg's Emma",
    "licence": "*** START: FULL LICENSE ***",
}


@pytest.mark.parametrize("header", HEADERS)
def test_headers(header: str) -> None:
    file = f"The Project Gutenberg EBook of Emma\n\n{LICENCE}\n{HEADERS[header]}\n\n\n{BOOK}\n\n"
    assert strip(file + FOOTERS["modern"] + "\n" + LICENCE) == BOOK


@pytest.mark.parametrize("footer", FOOTERS)
def test_footers(footer: str) -> None:
    assert strip(f"{HEADERS['modern']}\n\n{BOOK}\n\n\n{FOOTERS[footer]}\n\n{LICENCE}") == BOOK


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_shop(form: object) -> None:
    assert callable(form)
    assert strip(form(BOOK)) == BOOK


CREDITS = [
    "Produced by David Widger",
    "E-text prepared by A, B,\nand the Online Distributed Proofreading Team",
    "This etext was prepared by Someone, somewhere",
    "Transcribed from the 1901 edition by David Price, email x@example.org",
    "Note: Project Gutenberg also has an HTML version of this\n      file which includes pictures.",
    "[Transcriber's Note: Old spelling [sic] was kept.\n\nSo were the commas.]",
    "Transcriber's Note: Old spelling was kept.",
    "TRANSCRIBER'S NOTES\n\nOld spelling was kept.\n\nSo were commas.\n",
    "_Transcriber’s Note:_\n\nOld spelling was kept.\n",
    "+-----------------------+\n| Transcriber's Note:   |\n| Old spelling was kept |\n+----------+",
]


@pytest.mark.parametrize("credit", CREDITS)
def test_credits_and_notes_before_the_book(credit: str) -> None:
    file = f"{HEADERS['modern']}\n\n{credit}\n\n\n{BOOK}\n\n{FOOTERS['modern']}"
    assert strip(file) == BOOK


def test_notes_after_the_book() -> None:
    long = "\n\n".join([BOOK] * 30)
    notes = "Transcriber's Note:\n\nPage 3: 'teh' was corrected.\n\n\nPage 5: so was 'adn'."
    assert strip(f"{HEADERS['this']}\n{long}\n\n\n{notes}\n\n{FOOTERS['this']}") == long


def test_what_only_looks_like_a_note_stays() -> None:
    tale = "She wrote a transcriber's note, and left it.\n\n" * 40
    box = "+------+\n| SALE |\n+------+\n\n"
    book = f"{box}{tale}[A note by the author.]\n\nProduced by nobody, he said."
    assert strip(f"{HEADERS['modern']}\n\n{book}\n\n{FOOTERS['modern']}") == book


def test_a_licence_without_markers_is_refused_and_a_plain_text_is_not() -> None:
    assert strip(f"The Project\nGutenberg Etext\n\n{BOOK}") is None
    assert strip(f"{BOOK}\n") == BOOK


TEXT = "“Naïve,” he said — it cost 5 £, and an œuvre.\n"


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("UTF-8", "utf-8"),
        ("", "utf-8-sig"),
        ("", "utf-16"),
        ("", "cp1252"),
        ("ISO-8859-1", "cp1252"),
        ("ISO Latin-1", "cp1252"),
        ("ASCII", "cp1252"),
        ("Windows-1252", "cp1252"),
        ("Windows Code Page 1252", "cp1252"),
        ("MacRoman", "mac-roman"),
        ("no such thing", "cp1252"),
    ],
)
def test_encodings(declared: str, encoding: str) -> None:
    text = f"Character set encoding: {declared}\n{TEXT}" if declared else TEXT
    assert decode(text.replace("\n", "\r\n").encode(encoding)) == text


def test_another_code_page_is_believed() -> None:
    text = "Character set encoding: ISO-8859-2\nŁódź, źdźbło\n"
    assert decode(text.encode("iso-8859-2")) == text


def test_text_that_was_encoded_twice_is_mended() -> None:
    assert decode(TEXT.encode().decode("latin-1").encode()) == TEXT
    assert decode("Le cafÃ© est lÃ\xa0, dâ€™un cÃ´tÃ©\n".encode()) == "Le café est là, d’un côté\n"


def test_bytes_that_nothing_knows_are_latin_1() -> None:
    assert decode(b"caf\xe9 \x81\n") == "café \x81\n"


def test_what_is_no_text() -> None:
    assert decode(b"PK\x03\x04\0\0") is None


@pytest.mark.parametrize("codec", ["punycode", "idna", "unicode_escape", "hex", "a\tb", "." * 70])
def test_a_declared_codec_that_is_no_encoding_is_passed_over(codec: str) -> None:
    text = f"Character set encoding: {codec}\n{TEXT}"
    assert decode(text.encode("cp1252")) == text


PARTS = (" ", "\t", " \n", "\n\n", "*", "*END ", "ETEXTS*Ver.1", "+-+\n", "+--+\n| |\n", "| ", "[")
NOTES = ("[Transcriber's note ", "[Transcriber's note []", "Transcriber's note ", "Project ")


@pytest.mark.parametrize("before", ["", "*** START", "+--+\n", "[Transcriber's note"])
@pytest.mark.parametrize("part", PARTS + NOTES)
def test_no_text_takes_longer_than_its_length(before: str, part: str) -> None:
    started = time.process_time()
    strip(before + part * (200_000 // len(part)))
    assert time.process_time() - started < 5  # 0.1 s on a free core; squares take minutes


def test_a_declaration_takes_no_longer_than_its_length() -> None:
    started = time.process_time()
    assert decode(b"Character set encoding:" + b" " * 1_000_000 + b"\xff") is not None
    assert time.process_time() - started < 5
