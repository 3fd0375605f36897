"""What a change of a picture makes of the words about it: still true, true when rewritten, or false.

A mirror makes the left mug the right one, so "the mug on the left" becomes "the mug on the right". That is done only
where "left" or "right" certainly is a side (`_SIDES`): "the right answer" and "what is left" are not, and there the
mirror is refused. So are the changes that the table RULES names for other words: nobody's pictures hold mirrored
writing, what stands above is beside after a quarter turn, and the second from a corner may be the first once the
picture is cut. Where it is not sure it is refused; that costs one change of one picture, a false question teaches.

The table is English. Letters beyond the Latin ones, and the commonest words for sides in other languages, refuse
everything that moves pixels. Words that it does not know, such as a brand that has to be read to be found, pass: data
about writing is trained with `augment.flip: 0`.
"""

from __future__ import annotations

import re
from collections.abc import Set
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

Move = Literal["flip", "rotate", "crop", "scale", "mosaic"]  # the changes that move pixels, as a recipe calls them
MOVES: frozenset[Move] = frozenset(get_args(Move))


class Rule(NamedTuple):
    """Words that some changes of the picture make false."""

    why: str
    refused: frozenset[Move]
    words: re.Pattern[str]


def _rule(why: str, refused: Set[Move], words: str) -> Rule:
    return Rule(why, frozenset(refused), re.compile(words, re.IGNORECASE))


def _words(text: str) -> str:
    """A pattern of any of the words, whole."""
    return rf"\b(?:{'|'.join(text.split())})\b"


_ORDINALS = "1st 2nd 3rd \\d+th first second third fourth fifth sixth seventh eighth ninth tenth last next previous"

RULES: tuple[Rule, ...] = (
    _rule("a side, after a turn or in another picture", MOVES - {"flip"}, "left|(?<!b)right"),
    _rule(
        "a height",
        MOVES - {"flip"},
        _words(
            "top topmost bottom bottommost upper uppermost lower lowermost higher highest lowest above below over under"
            " underneath beneath overhead up down upward upwards downward downwards"
        ),
    ),
    _rule(
        "a direction that gravity gives",
        {"rotate"},
        _words(
            "upside upright standing lying horizontal horizontally vertical vertically diagonal diagonally sideways"
            " tilted"
        ),
    ),
    _rule(
        "a place in the picture",
        {"crop", "scale", "mosaic"},
        _words(
            "center centre central middle midst corner corners edge edges border borders side sides background"
            " foreground far farthest furthest distant distance close closer closest near nearer nearest"
        ),
    ),
    _rule(
        "a thing that may be cut away, or stand in another picture too",
        {"crop", "mosaic"},
        _words(
            "next beside besides between among behind front adjacent opposite by near with without other others"
            " another same both rest remaining only alone single lone group pair row rows column columns line half"
            " whole entire"
        ),
    ),
    _rule("a rank among the things of the picture", {"mosaic"}, r"\b(?:[a-z]+est|most|least|more|less|fewer|than)\b"),
    _rule("an order, which has a direction", MOVES - {"flip"}, _words(_ORDINALS)),
    _rule(
        "an order that is not said to begin at a side",
        {"flip"},
        _words(_ORDINALS) + r"(?!(?: \w+){0,2} (?:from|on|to) (?:the )?(?:far )?(?:left|right)\b)",
    ),
    _rule("a count", {"crop", "mosaic"}, r"\d|" + _words("two three four five six seven eight nine ten dozen")),
    _rule("a point of the compass", {"flip", "rotate"}, r"\b(?:north|south|east|west)(?:\b|ern|ward|most|-|east|west)"),
    _rule(
        "a side that goes by another name",
        {"flip"},
        r"\b(?:port|driver'?s?|passenger'?s?|[ck]urb|near|off)[ -]?side\b|\bstarboard\b",
    ),
    _rule("a shape like a letter", {"flip", "rotate"}, r"\b[a-z][ -]shaped?\b"),
    _rule(
        "something to be read, which a mirror makes unreadable",
        {"flip"},
        r"\d|[\"\u201c\u201d\u00ab\u00bb]|o'clock|"
        + _words(
            "write writes writing writings written wrote handwriting handwritten read reads reading readable say says"
            " said saying text texts textual word words wording letter letters lettering lettered character characters"
            " alphabet number numbers numbered numeral numerals digit digits name names named naming called title"
            " titles titled label labels labeled labelled caption captions captioned subtitle logo logos brand brands"
            " branded sign signs signage slogan slogans spell spells spelled spelt spelling phrase phrases quote quotes"
            " language headline headlines heading headings price prices date dates year time clock watch hour hours"
            " minute minutes score scores serial code codes barcode qr license licence copyright website url address"
            " email phone message messages inscription inscribed engraved printed print initial initials monogram"
        ),
    ),
    _rule(
        "a side or a height in another language",
        MOVES,
        _words(
            "links linke linken linker linkes rechts rechte rechten rechter rechtes oben unten obere untere gauche"
            " droite droit haut izquierda izquierdo derecha derecho arriba abajo esquerda esquerdo direita direito"
            " sinistra sinistro destra destro sopra sotto"
        ),
    ),
    _rule("letters of a script that this table does not know", MOVES, "[^\\W\\d_a-z\u00c0-\u024f]"),
)
"""Which words refuse which changes, in a question or in a label."""


@lru_cache(maxsize=65536)  # the questions of a data set come up every epoch
def moves_allowed(text: str) -> frozenset[Move]:
    """The changes that leave a text true, `flip` among them where `mirror_words` can rewrite it."""
    plain = _plain(text)
    refused = {move for rule in RULES if rule.words.search(plain) for move in rule.refused}
    allowed = MOVES - refused
    return allowed - {"flip"} if "flip" in allowed and mirror_words(text) is None else allowed


def _plain(text: str) -> str:
    """The text with `top_left`, `topLeft` and `top  left` as two words."""
    return " ".join(re.sub("(?<=[a-z])(?=[A-Z])", " ", text.replace("_", " ")).split())


# ---- mirrored --------------------------------------------------------------------------------------------------

_GAP = r"[\s_-]+"
_NO_WORD_BEFORE = r"(?<![^\W_])"
_SIDE = "(?:left|right)"
_ARTICLE = rf"(?:(?:the|its|his|her|their|your|my|our|image's|picture's){_GAP})?"
_DEGREE = "far|very|extreme|immediate|upper|lower|top|bottom|middle|mid|center|centre|back|rear|front|outer|inner"
_NOUNS = (
    "side sides hand hands corner corners edge edges half end part portion quarter section border margin"
    " arm arms forearm leg legs foot feet eye eyes eyebrow ear ears cheek nostril shoulder knee elbow wrist ankle thigh"
    " hip thumb finger palm fist toe heel wing wings paw wheel wheels tire tyre headlight taillight mirror door window"
    " lane panel pocket sleeve shoe sneaker boot glove sock earring turn arrow"
    " man woman person guy lady boy girl kid child player dog cat horse cow sheep elephant zebra giraffe bear bird"
    " car truck bus bike bicycle motorcycle boat train chair mug cup bowl glass bottle plate laptop monitor screen"
).replace(" ", "|")
_FOLLOWS = "of|in|on|and|or|to|with|who|which|that|is|are|wearing|holding|sitting|from"
_ENDS = rf"(?=\s*$|\s*[.,;:?!)\]/]|{_GAP}(?:{_FOLLOWS}|{_NOUNS})\b)"
_IS_GONE = "is|are|was|were|be|been|being|what's|whats|has|have|had|of|thing|anything|something|nothing|just|only"
_SOMEBODY = "i|you|he|she|it|we|they|who|that"

_SIDES: tuple[tuple[str, str], ...] = (
    (rf"\b(?:on|to|at|in|from|toward|towards|off){_GAP}{_ARTICLE}(?:(?:{_DEGREE}){_GAP})*", _ENDS),  # on the far left
    (rf"\b(?:{_DEGREE})(?:{_GAP})?", _ENDS),  # bottom left, top-left, topleft
    (_NO_WORD_BEFORE, rf"{_GAP}(?:{_NOUNS})\b"),  # left hand
    (_NO_WORD_BEFORE, r"[\s_-]?(?:most|hand|handed|side|wards?)\b"),  # leftmost, left-hand, left_side
    (_NO_WORD_BEFORE, rf"{_GAP}of\b"),  # left of the plate
    (_NO_WORD_BEFORE, rf"{_GAP}(?:and|or|to){_GAP}{_SIDE}\b"),  # left and right
    (rf"\b{_SIDE}{_GAP}(?:and|or|to){_GAP}", _ENDS),
    (rf"\b(?:facing|looking|pointing|turning|leaning|heading|moving|turn|arrow){_GAP}", _ENDS),  # turn left
)
"""What stands before and behind a "left" or "right" that is a side for certain."""

_IS_SIDE = tuple(
    (re.compile(f"{before}$", re.IGNORECASE), re.compile(after, re.IGNORECASE)) for before, after in _SIDES
)
_IS_NO_SIDE = re.compile(
    rf"\b(?:{_IS_GONE}|{_SOMEBODY}){_GAP}$",  # what is left of the cake; she left
    re.IGNORECASE,
)
_ANY_SIDE = re.compile("left|right", re.IGNORECASE)
_OTHER_WORDS = re.compile(
    r"\b(?:bright[a-z]*|upright|fright[a-z]*|cleft|leftovers?|(?:play)?wright|outright|alright)\b",
    re.IGNORECASE,
)
_NO_PLACE = re.compile(rf"{_GAP}(?:side{_GAP}up|hand{_GAP}man|of{_GAP}way)\b", re.IGNORECASE)  # right side up

_ROTATION = re.compile(r"(?:(?:counter|anti)[\s_-]?)?clockwise", re.IGNORECASE)
_ROTATIONS = {"clockwise": "counterclockwise", "counterclockwise": "clockwise"}
_MIRRORED = {"left": "right", "right": "left"} | _ROTATIONS


def mirror_words(text: str) -> str | None:
    """The text about the mirrored picture, left for right and clockwise for counterclockwise; None where none is sure.

    What came out goes back: mirrored once more it is the text again. Other words are not judged here (`RULES`).
    """
    spans = [*_ANY_SIDE.finditer(text), *_ROTATION.finditer(text)]
    mirrored, end = "", 0
    for found in sorted(spans, key=lambda found: found.start()):
        word = _mirror_word(found, text)
        if word is None:
            return None
        mirrored += text[end : found.start()] + word
        end = found.end()
    return mirrored + text[end:]


def _mirror_word(found: re.Match[str], text: str) -> str | None:
    word = found.group()
    is_other = any(other.start() <= found.start() < other.end() for other in _OTHER_WORDS.finditer(text))
    if is_other:
        return word
    if word.lower() not in _MIRRORED or not (word.lower() in _ROTATIONS or _is_side(found, text)):
        return None
    return _like(word, _MIRRORED[word.lower()])


def _is_side(found: re.Match[str], text: str) -> bool:
    before, after = text[: found.start()], text[found.end() :]
    if _IS_NO_SIDE.search(before) or _NO_PLACE.match(after):
        return False
    return any(left.search(before) and right.match(after) for left, right in _IS_SIDE)


def _like(word: str, other: str) -> str | None:
    """The other word with the capitals of this one; None where they are mixed."""
    for write in (str.lower, str.upper, str.capitalize):
        if write(word) == word:
            return write(other)
    return None
