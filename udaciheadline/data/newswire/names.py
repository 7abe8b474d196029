"""Invented proper names and figures, in two disjoint pools: one for training, one held out for evaluation.

A name is composed of a stem and an ending, so that there are thousands of each kind and a model has to learn to copy
a name it has never seen instead of remembering it. Which pool a name belongs to is decided by a checksum of its
spelling, whatever kind of name it is: a surname and a town of the same spelling fall on the same side.
"""

import random
import zlib
from dataclasses import dataclass
from functools import cache

HELD_OUT_SHARE = 5  # one name in so many is held out

_FIRST = (
    "Al Bel Cor Dar El Fen Gar Hel Is Jor Kal Lor Mar Nel Or Pel Quin Ros Sel Tam Ul Var Wil Yas Zel Bran Cass Den Ev"
    " Fior Gwen Hal Jun Kest Len Mir Nor Ot Per Rem Sor Tev Vin Wend Arl Bri Dor Est"
).split()
_FIRST_END = "a an ena ia in ina is la len lin mon na nan nia or ra ric rin sa ta ten tha vin wen".split()
_SURNAME = (
    "Ab Ald Arv Bask Bell Birn Brack Cald Carv Cresk Dav Dell Dorn Drum Eld Ers Fal Farr Fisk Gant Garr Glenn Grim"
    " Hald Harg Hask Hol Ing Jar Jess Kell Kirv Krav Land Lask Lomb Mard Mell Mor Nash Nev Nord Ock Orl Pask Pell Prat"
    " Quill Rand Rask Rov Sand Sark Sev Stan Tal Tav Thorn Torv Und Vald Vank Vess Wald Warr Wex Yard Zorn"
).split()
_SURNAME_END = (
    "acre aby ado all ander ard arro berg by dane den dras ello en erby eski eth ett ey ford gren hurst ier ing ington"
    " io iss kin ley lund man mere more ner ock off olt onde ora ova quist ran rick rose sen shaw son stad ston strom"
    " sky ulo van vey well wick wood worth yard"
).split()
_PLACE = (
    "Amber Arn Ash Bal Barrow Bex Birk Black Bolder Brant Brid Cairn Cald Chal Clar Cob Cold Crag Dask Dern Dray Dun"
    " East Eck Elm Fair Fal Fenn Fern Glen Gold Gran Grey Hal Harrow Hawk Hazel Hex High Hol Iron Kel Ken Lang Lark"
    " Linden Long Low Mal Marl Mill Moss Nether New Nor Oak Old Orr Pem Pine Quarry Raven Red Rook Rush Sal Shale"
    " Silver South Stan Stone Swan Tarn Thorn Tor Umber Vale Wal West Whit Wild Win Wren Yar"
).split()
_PLACE_END = (
    "bank bourne bridge brook bury by cliff combe cote cross dale den fell field ford gate grove ham haven head holm"
    " hurst land leigh ley lock march mark meadow mere minster moor mouth pool port quay reach ridge sands shaw shore"
    " side stead stone stow thorpe ton vale view wall water well wick wold wood worth"
).split()
_REGION_END = "aria avia enia esia ia istan land mark monia ora ovia shire sia stria thia uria valia".split()
_COMPANY_END = (
    "aco adyne aris atec avo ena ero exa ica ico ido imo ion ium ivo ix ola onic ora os ova ux yne yx".split()
)

_COMPANY_KIND = "Bank,Foods,Motors,Energy,Systems,Airways,Textiles,Freight,Media,Labs,Robotics,Insurance,Stores".split(
    ","
)
_ORG_KIND = (
    "Trust,Institute,Foundation,Society,Alliance,Fund,Center,League,Union,Observatory,Museum,Council,Library,Forum,"
    "Commission,Association,Guild,Coalition,Bureau,Gallery"
).split(",")
_SCHOOL_KIND = (
    "University,College,Academy,Institute of Technology,School of Medicine,High School,State University".split(",")
)
_MASCOT = (
    "Falcons,Rovers,Badgers,Comets,Herons,Miners,Otters,Pilots,Ramblers,Storm,Wolves,Anchors,Bisons,Captains,Drifters,"
    "Engineers,Foxes,Gulls,Harriers,Kites,Lancers,Mariners,Owls,Rangers,Stags,Tides,Wanderers,Archers,Breakers,Cranes"
).split(",")

_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MONTHS = "January February March April May June July August September October November December".split()
_FEW = "two three four five six seven eight nine".split()


class Phrase(str):
    """A word list entry or a name; in a template `{x}` is the text itself and `{x.title}` its headline form."""

    @property
    def title(self) -> "Phrase":  # type: ignore[override]
        small = {"a", "an", "and", "at", "by", "for", "in", "of", "on", "or", "the", "to", "with"}
        words = self.split(" ")
        return Phrase(" ".join(w if i and w in small else w[:1].upper() + w[1:] for i, w in enumerate(words)))


@dataclass(frozen=True)
class Person:
    """`{person}` is the full name, `{person.last}` the surname."""

    first: str
    last: str

    def __str__(self) -> str:
        return f"{self.first} {self.last}"


@dataclass(frozen=True)
class Figure:
    """A figure with the form of running text (`12 percent`) and the short form of headlines (`12%`)."""

    text: str
    short: str

    def __str__(self) -> str:
        return self.text

    @property
    def digit(self) -> str:
        return self.short


def is_held_out(name: str) -> bool:
    """Whether this spelling belongs to the pool that training articles never draw from."""
    return zlib.crc32(name.encode()) % HELD_OUT_SHARE == 0


@cache
def _pool(kind: str, held_out: bool) -> tuple[str, ...]:
    stems, endings = {
        "first": (_FIRST, _FIRST_END),
        "surname": (_SURNAME, _SURNAME_END),
        "place": (_PLACE, _PLACE_END),
        "region": (_PLACE + _SURNAME, _REGION_END),
        "company": (_SURNAME + _FIRST, _COMPANY_END),
    }[kind]
    return tuple(sorted({s + e for s in stems for e in endings if is_held_out(s + e) == held_out}))


def _money(rng: random.Random) -> Figure:
    amount = f"{rng.uniform(1.1, 9.9):.1f}" if rng.random() < 0.6 else str(rng.randint(11, 940))
    word, letter = ("million", "M") if rng.random() < 0.8 else ("billion", "B")
    return Figure(f"${amount} {word}", f"${amount}{letter}")


def _percent(rng: random.Random) -> Figure:
    value = rng.randint(3, 88)
    return Figure(f"{value} percent", f"{value}%")


def _few(rng: random.Random) -> Figure:
    value = rng.randrange(len(_FEW))
    return Figure(_FEW[value], str(value + 2))


def draw(kind: str, rng: random.Random, held_out: bool) -> object:
    """Draws the filling of the slot `kind`; `held_out` chooses the pool that names come from.

    Raises KeyError for a slot that does not exist.
    """

    def name(pool: str) -> str:
        return rng.choice(_pool(pool, held_out))

    return {
        "person": lambda: Person(name("first"), name("surname")),
        "place": lambda: name("place"),
        "region": lambda: name("region"),
        "org": lambda: f"{name(rng.choice(('place', 'surname')))} {rng.choice(_ORG_KIND)}",
        "company": lambda: name("company") if rng.random() < 0.5 else f"{name('surname')} {rng.choice(_COMPANY_KIND)}",
        "school": lambda: f"{name('place')} {rng.choice(_SCHOOL_KIND)}",
        "team": lambda: f"{name('place')} {rng.choice(_MASCOT)}",
        "number": lambda: f"{rng.randint(12, 980) * 100:,}",
        "few": lambda: _few(rng),
        "percent": lambda: _percent(rng),
        "money": lambda: _money(rng),
        "years": lambda: str(rng.randint(3, 40)),
        "age": lambda: str(rng.randint(18, 94)),
        "day": lambda: rng.choice(_DAYS),
        "date": lambda: f"{rng.choice(_MONTHS)} {rng.randint(1, 28)}",
        "month": lambda: rng.choice(_MONTHS),
        "year": lambda: str(rng.randint(1950, 2019)),
    }[kind]()
