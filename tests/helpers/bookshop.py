"""A small Project Gutenberg: a catalogue with its real columns, and books as they really are."""

from __future__ import annotations

import csv
import gzip
import io
import random
import re
from dataclasses import dataclass, field

from pipeline.corpus.corpora import TEXTS

STORY = TEXTS / "what-seemed-likely.txt"
SENTENCES = [s for s in re.split(r"(?<=[.?!])\s+", STORY.read_text(encoding="utf-8")) if s]
FRENCH = (
    "Le vieux pêcheur rentrait toujours avant la nuit. Sa fille l'attendait sur le seuil de la "
    "maison, une lanterne à la main. Personne au village ne savait d'où venait cette lumière. On "
    "racontait qu'elle avait été allumée bien avant la naissance du roi. Les enfants couraient "
    "derrière la charrette en criant des mots que nous n'osions pas répéter. "
)
GERMAN = (
    "Der alte Müller stand jeden Morgen vor der Tür und sah auf den Fluss hinaus. Niemand wusste, "
    "worauf er wartete. Seine Frau brachte ihm das Brot und schwieg, denn sie hatte längst "
    "aufgehört zu fragen. Im Winter fror das Rad ein, und dann war es still im ganzen Tal. "
)
COLUMNS = (
    "Text#",
    "Type",
    "Issued",
    "Title",
    "Language",
    "Authors",
    "Subjects",
    "LoCC",
    "Bookshelves",
)
LICENCE = "START of the small licence: you may copy it, give it away or re-use it.\n" * 30
PREAMBLE = "The Project Gutenberg eBook of {title}\n\nThis ebook is for the use of anyone.\n\n"


@dataclass
class Shop:
    """What a mirror serves, and what must become of it.

    Attributes:
        files: by path on the mirror.
        rows: of the catalogue.
        kept: number to the text that the corpus must hold.
        left_out: number to the reason.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)

    def catalogue(self) -> bytes:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(self.rows)
        return gzip.compress(text.getvalue().encode("utf-8"))

    def list(self, number: int, language: str = "en", **cells: str) -> None:
        """Put a book into the catalogue."""
        row = {
            "Text#": str(number),
            "Type": "Text",
            "Issued": "1998-06-01",
            "Title": f"Tale No. {number},\nwith a second line",
            "Language": language,
            "Authors": "Austen, Jane, 1775-1817; Müller, Wilhelm [Translator]",
            "Subjects": "England -- Fiction; Sisters -- Fiction",
            "LoCC": "PR",
            "Bookshelves": "Best Books Ever Listings",
        }
        self.rows.append(row | cells)

    def put(self, path: str, text: str, encoding: str = "utf-8") -> None:
        self.files[f"/{path}"] = text.encode(encoding)


def tale(number: int, sentences: int = 40) -> str:
    """An English text of its own."""
    chosen = random.Random(number).sample(SENTENCES, sentences)
    lines = [" ".join(chosen[start : start + 3]) for start in range(0, sentences, 3)]
    return f"TALE {number}\n\n" + "\n\n".join(lines)


def modern(text: str, title: str = "A TALE") -> str:
    return (
        f"{PREAMBLE.format(title=title)}*** START OF THE PROJECT GUTENBERG EBOOK {title} ***\n\n\n"
        f"{text}\n\n\n*** END OF THE PROJECT GUTENBERG EBOOK {title} ***\n\n{LICENCE}"
    )


def older(text: str, title: str = "A TALE") -> str:
    return (
        f"{PREAMBLE.format(title=title)}Character set encoding: ISO-8859-1\n\n"
        f"***START OF THIS PROJECT GUTENBERG EBOOK {title},\nOR WHAT CAME OF IT***\n\n"
        f"E-text prepared by Somebody\nand the Online Distributed Proofreading Team\n\n\n"
        f"{text}\n\nEnd of Project Gutenberg's {title}, by Jane Austen\n\n"
        f"*** END OF THIS PROJECT GUTENBERG EBOOK {title} ***\n{LICENCE}"
    )


def oldest(text: str, title: str = "A Tale") -> str:
    return (
        f"***The Project Gutenberg Etext of {title}***\n\nCopyright laws are changing.\n\n"
        f"{LICENCE}*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n"
        f"{text}\n\n\nEnd of The Project Gutenberg Etext of {title}\n"
    )


def noted(text: str, title: str = "A TALE") -> str:
    note = "[Transcriber's Note: Spelling has been kept [sic] as it was.]\n\n\n\n"
    end = "\n\n\n\nTranscriber's Notes:\n\nPage 7: 'teh' corrected to 'the'.\n\nPage 9: a comma."
    return modern(f"Produced by A. Volunteer\n\n\n\n{note}{text}{end}", title)


def bare(text: str, title: str = "A TALE") -> str:
    return text


FORMS = (modern, older, oldest, noted, bare)


def furnish(tales: int = 220) -> Shop:
    """A shop of `tales` good books, in all forms, encodings and places, and of what goes wrong."""
    shop = Shop()
    for number in range(1, tales + 1):
        text = tale(number)
        wrap, encoding = FORMS[number % len(FORMS)], ""
        if number % 7 == 0:
            text += "\n\n“Curly,” she said — naïve, and at 5 £."
            encoding = "cp1252"
        shop.list(number)
        shop.kept[number] = text
        digits = "/".join(str(number)[:-1]) or "0"
        if encoding:
            shop.put(f"{digits}/{number}/{number}-8.txt", wrap(text), encoding)
        elif number % 11 == 0:
            body = wrap(text).replace("\n", "\r\n")
            shop.put(f"{digits}/{number}/{number}-0.txt", body, "utf-8-sig")
        elif number % 13 == 0:
            shop.put(f"cache/epub/{number}/pg{number}.txt", wrap(text), "utf-16")
        else:
            shop.put(f"cache/epub/{number}/pg{number}.txt", wrap(text))
    _add_what_goes_wrong(shop)
    return shop


def _add_what_goes_wrong(shop: Shop) -> None:
    def add(number: int, reason: str, text: str | None, **cells: str) -> None:
        shop.list(number, **cells)
        shop.left_out[number] = reason
        if text is not None:
            shop.put(f"cache/epub/{number}/pg{number}.txt", text)

    for number in range(1001, 1006):
        add(number, "language", modern(FRENCH * 20))
        add(number + 10, "language", older(GERMAN * 20))
    for number in range(1021, 1031):
        add(number, "near-duplicate", oldest(tale(number - 1000).replace("TALE", "A TALE OF")))
    for number in range(1031, 1036):
        add(number, "dead link", None)
    for number in range(1041, 1044):
        add(number, "no markers", f"{PREAMBLE}{tale(number)}")
    add(1051, "not text", "PK\x03\x04\0\0\0")
    add(1052, "empty", modern(" \n"))
    # Not chosen at all: the catalogue says so.
    shop.list(1101, language="fr")
    shop.list(1102, Type="Sound")
    shop.list(1103, language="de; nl")
