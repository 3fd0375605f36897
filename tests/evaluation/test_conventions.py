"""Planted conventions are found, and nothing is found in answers that know no place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from families import build_family_processor
from planted_eye import Eye, Size, itself, shrunk, stretched, thousandths, within

from groundling.dialect.family import FAMILIES
from groundling.evaluation.calibration import Calibration, Reply, describe_edges, differences, measure
from groundling.evaluation.cards import Card, draw_cards
from groundling.evaluation.conventions import COUNTS, SIZINGS, Counts, write_conversion
from groundling.evaluation.fitting import FEWEST, Fit, find_family
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import Frame

CARDS = tuple(draw_cards())
Answer = Callable[[Card], str]


@lru_cache
def calibrate(eye: Eye, *, seed: int | None = None, cards: Sequence[Card] = CARDS) -> Calibration:
    rng = None if seed is None else np.random.default_rng(seed)
    return measure("it", [Reply(card, eye.answer(card.file, card.question, rng)) for card in cards])


def ask(answer: Answer) -> Calibration:
    return measure("it", [Reply(card, answer(card)) for card in CARDS])


def found(calibration: Calibration) -> Fit:
    assert calibration.fit is not None
    return calibration.fit


# ---- what is planted is found ----------------------------------------------------------------------------------

PROSE = "It is between ({}, {}) and ({}, {})."
MOLMO = '<point x="{}" y="{}" alt="it">it</point>'
STORED_SQUARE = ("middle_thousandths", "xyxy", "stored")
CORNER_FRACTIONS = ("corner_fractions", "xyxy", "upright")

PLANTED: list[tuple[str, Eye, tuple[str, str, str]]] = [
    ("Qwen2.5-VL", Eye(), ("seen", "xyxy", "upright")),
    ("Qwen3-VL", Eye(thousandths), ("thousandths", "xyxy", "upright")),
    ("original", Eye(itself), ("original", "xyxy", "upright")),
    ("fractions", Eye(lambda size: (1, 1), decimals=2, form="[{}, {}, {}, {}]"), ("fractions", "xyxy", "upright")),
    ("percent", Eye(lambda size: (100, 100), decimals=1), ("percent", "xyxy", "upright")),
    ("PaliGemma", Eye(lambda size: (1024, 1024), "yxyx"), ("1024ths", "yxyx", "upright")),
    (
        "Gemini",
        Eye(thousandths, "yxyx", form='```json\n[{{"box_2d": [{}, {}, {}, {}], "label": "it"}}]\n```'),
        ("thousandths", "yxyx", "upright"),
    ),
    ("xywh", Eye(thousandths, "xywh"), ("thousandths", "xywh", "upright")),
    ("xywh of pixels", Eye(itself, "xywh"), ("original", "xywh", "upright")),
    ("middle and size", Eye(order="cxcywh"), ("seen", "cxcywh", "upright")),
    ("not turned", Eye(thousandths, heeds_exif=False), ("thousandths", "xyxy", "stored")),
    ("pixels, not turned", Eye(heeds_exif=False), ("seen", "xyxy", "stored")),
    ("pixels, y first, not turned", Eye(itself, "yxyx", heeds_exif=False), ("original", "yxyx", "stored")),
    ("LLaVA", Eye(stretched(1), square="middle", decimals=2, form=PROSE), ("middle_fractions", "xyxy", "upright")),
    ("a square", Eye(thousandths, square="middle"), ("middle_thousandths", "xyxy", "upright")),
    ("a square's pixels", Eye(itself, square="middle"), ("middle_pixels", "xyxy", "upright")),
    ("a square of 336", Eye(stretched(336), square="middle"), ("letterbox", "xyxy", "upright")),
    ("a square, not turned", Eye(thousandths, square="middle", heeds_exif=False), STORED_SQUARE),
    ("the longer side", Eye(thousandths, square="corner"), ("corner_thousandths", "xyxy", "upright")),
    ("shares of the longer side", Eye(stretched(1), square="corner", decimals=2), CORNER_FRACTIONS),
    ("a longer side of 1024", Eye(stretched(1024), square="corner"), ("longer", "xyxy", "upright")),
    ("shrunk to 1024", Eye(shrunk(1024)), ("at_most", "xyxy", "upright")),
    *(
        (f"never enlarged: {words} {least}", Eye(frame, square=where, least=least, decimals=decimals), kind)
        for words, frame, where, least, decimals in (
            ("shrunk_middle_pixels", stretched(640), "middle", 640, 0),
            ("shrunk_middle_pixels", stretched(336), "middle", 336, 0),
            ("shrunk_middle_thousandths", thousandths, "middle", 1024, 0),
            ("shrunk_middle_fractions", stretched(1), "middle", 448, 3),
            ("shrunk_corner_thousandths", thousandths, "corner", 1024, 0),
            ("shrunk_corner_fractions", stretched(1), "corner", 800, 3),
        )
        for kind in [(words, "xyxy", "upright")]
    ),
    ("stretched to 640, y first", Eye(stretched(640), "yxyx"), ("square", "yxyx", "upright")),
    ("Molmo", Eye(stretched(100), "xy", decimals=1, form=MOLMO), ("percent", "xyxy", "upright")),
    ("points of thousandths, y first", Eye(thousandths, "yx", form="({}, {})"), ("thousandths", "yxyx", "upright")),
    ("points of pixels", Eye(order="xy", form='{{"point_2d": [{}, {}]}}'), ("seen", "xyxy", "upright")),
]


@pytest.mark.parametrize(("eye", "kind"), [case[1:] for case in PLANTED], ids=[case[0] for case in PLANTED])
def test_a_planted_convention_is_found(eye: Eye, kind: tuple[str, str, str]):
    calibration = calibrate(eye)
    fit = found(calibration)
    assert calibration.is_found and fit.best.kind == kind
    assert fit.best.explained == len(calibration.heard) == len(CARDS)
    wins, of = fit.best.against(fit.second)
    assert wins == of >= 5
    assert fit.second.kind != kind


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seed"),
    [
        *(("Qwen2.5-VL", 0), ("Qwen3-VL", 1), ("xywh of pixels", 2), ("not turned", 3), ("LLaVA", 4), ("a square", 5)),
        *(("a square of 336", 6), ("a longer side of 1024", 7), ("shrunk to 1024", 8), ("Molmo", 9)),
    ],
)
def test_a_hundredth_of_the_side_of_noise_changes_nothing(name: str, seed: int):
    eye, kind = next(case[1:] for case in PLANTED if case[0] == name)
    fit = found(calibrate(replace(eye, noise=0.01), seed=seed))
    assert fit.best.kind == kind and not fit.rivals


@pytest.mark.parametrize(
    ("least", "most", "side"),
    [
        (3136, 1_003_520, 28),
        (3136, 50_176, 28),
        (3136, 451_584, 28),
        (3136, 602_112, 28),  # in no table
        (200_704, 1_003_520, 28),
        (65_536, 2_000_000, 32),
    ],
)
def test_a_budget_is_found(least: int, most: int, side: int):
    fit = found(calibrate(Eye(within(least, most, side))))
    budget, likely = fit.best.budget, fit.most_pixels
    assert budget is not None and likely is not None
    assert likely[0] <= most <= likely[1] and likely[1] / likely[0] < 1.15
    assert fit.best.side == side
    assert abs(budget.max_pixels / most - 1) < 0.02
    small = [card.upright.size_wh for card in CARDS if card.upright.area < 20_000]
    assert all(within(budget.min_pixels, most, side)(size) == within(least, most, side)(size) for size in small)


@pytest.mark.slow
def test_budgets_that_others_use_are_named_exactly():
    for most in (50_176, 451_584, 1_003_520, 12_845_056):
        budget = found(calibrate(Eye(within(3136, most)))).best.budget
        assert budget is not None and (budget.min_pixels, budget.max_pixels) == (3136, most)


def test_budgets_beyond_the_largest_card_are_one():
    fit = found(calibrate(Eye(within(3136, 12_845_056))))
    assert fit.most_pixels is not None and fit.most_pixels[0] < 4_500_000 < 12_845_056 <= fit.most_pixels[1]


@pytest.mark.parametrize(
    ("eye", "size"),
    [
        (Eye(stretched(448)), 448),
        (Eye(stretched(1008)), 1008),  # near 1000, and told from it
        (Eye(stretched(700)), 700),  # in no table
        (Eye(stretched(336), square="middle"), 336),
        (Eye(stretched(1024), square="corner"), 1024),
        (Eye(shrunk(1024)), 1024),
        (Eye(stretched(336), square="middle", least=336), 336),
        (Eye(thousandths, square="corner", least=1024), 1024),
        (Eye(stretched(700), square="middle", least=700), 700),  # in no table
    ],
)
def test_a_size_is_found(eye: Eye, size: int):
    fit = found(calibrate(eye))
    assert fit.is_found and fit.best.likeliest.size is not None and fit.sizes is not None
    assert abs(fit.best.likeliest.size / size - 1) < 0.005
    assert fit.sizes[0] <= size <= fit.sizes[1] < 1.03 * fit.sizes[0]
    assert fit.second.counts[0].rule != fit.best.counts[0].rule or fit.second.turned == "stored"


def test_a_usual_size_is_named_before_one_beside_it_that_does_as_well():
    fit = found(calibrate(Eye(stretched(448), noise=0.02), seed=0))
    assert fit.is_found and fit.best.likeliest.size == 448
    assert fit.sizes is not None and fit.sizes[0] < 448 < fit.sizes[1]


def test_999_are_no_other_than_thousandths():
    """DeepSeek-VL2 and Rex-Omni count so; nobody could tell, and it makes no difference."""
    fit = found(calibrate(Eye(stretched(999))))
    assert fit.is_found and fit.best.kind == ("thousandths", "xyxy", "upright")


def test_pictures_larger_than_those_that_are_shown_are_not_judged():
    fit = found(calibrate(Eye(shrunk(4096))))
    assert fit.is_found and fit.best.kind == ("original", "xyxy", "upright")


@pytest.mark.parametrize("counts", [*COUNTS[1:], *(sizing.counts(512) for sizing in SIZINGS)], ids=lambda c: c.words)
@pytest.mark.parametrize("size", [Frame(1024, 768), Frame(384, 512)], ids=str)
def test_the_formula_does_what_calibrating_did(counts: Counts, size: Frame):
    frame = counts.frame(size, None)
    formula = write_conversion(counts)
    assert frame is not None and formula is not None
    x, y = 0.3 * frame.width, 0.9 * frame.height
    width, height = size.size_wh
    expressions, _, side = formula.partition(", L = ")
    longer = eval(side.partition(", M = ")[0] or "0", {"max": max, "width": width, "height": height})
    names = {"x": x, "y": y, "width": width, "height": height, "L": longer, "M": min(longer, 512)}
    placed = counts.place(Boxes([(x, y, x, y)], frame), size).xyxy[0]
    np.testing.assert_allclose(eval(expressions, names), placed[:2])


def test_a_budget_has_no_formula():
    assert write_conversion(COUNTS[0]) is None


def test_mistakes_about_a_third_of_the_cards_change_nothing():
    rng = np.random.default_rng(0)

    def answer(card: Card) -> str:
        return random_box(rng, (1000, 1000)) if rng.random() < 0.35 else Eye().answer(card.file, card.question)

    calibration = ask(answer)
    assert calibration.is_found and found(calibration).best.kind == ("seen", "xyxy", "upright")
    assert found(calibration).best.explained < 0.8 * len(CARDS)


@pytest.mark.parametrize(
    "name", ["Qwen2.5-VL", "Qwen3-VL", "LLaVA", "a square of 336", "a longer side of 1024", "Molmo"]
)
@pytest.mark.parametrize("share", [0.2, 0.3])
def test_mistakes_beside_noise_change_nothing(name: str, share: float):
    eye, kind = next(case[1:] for case in PLANTED if case[0] == name)
    eye, rng = replace(eye, noise=0.01), np.random.default_rng(0)

    def answer(card: Card) -> str:
        other = CARDS[rng.integers(len(CARDS))]
        seen = other if rng.random() < share else card
        return eye.answer(seen.file, seen.question, rng)

    calibration = ask(answer)
    assert calibration.is_found and found(calibration).best.kind == kind


# ---- nothing is found in a convention that is not listed -------------------------------------------------------


def cropped(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pixels of the picture's middle, as high as wide, resized to 336, as CLIP's processor crops."""
    shorter = min(width, height)
    return (box - np.tile([(width - shorter) / 2, (height - shorter) / 2], 2)) * 336 / shorter


def padded_before(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """Thousandths of a square, padded at the left and the top."""
    longer = max(width, height)
    return (box + np.tile([longer - width, longer - height], 2)) * 1000 / longer


def of_one_picture(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pixels of 640x480, whatever the picture's size."""
    return box * np.tile([640 / width, 480 / height], 2)


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("form", ["[{:.1f}, {:.1f}, {:.1f}, {:.1f}]", "({:.1f}, {:.1f})"], ids=["boxes", "points"])
@pytest.mark.parametrize("frame", [cropped, padded_before, of_one_picture])
def test_a_convention_that_is_not_listed_is_not_found(
    frame: Callable[[np.ndarray, int, int], np.ndarray], form: str, noise: float
):
    rng = np.random.default_rng(0)

    def answer(card: Card) -> str:
        width, height = card.upright.size_wh
        box = card.box.xyxy[0] + rng.normal(0, noise, 4) * card.upright.area**0.5
        left, top, right, bottom = frame(box, width, height)
        is_point = form.startswith("(")
        return form.format(*([(left + right) / 2, (top + bottom) / 2] if is_point else [left, top, right, bottom]))

    calibration = ask(answer)
    assert not calibration.is_found and len(found(calibration).misplaced) >= 6
    assert describe_edges(calibration) is None


# ---- nothing is found in what knows no place -------------------------------------------------------------------


def random_box(rng: np.random.Generator, size: Size) -> str:
    (left, right), (top, bottom) = np.sort(rng.uniform(0, 1, (2, 2)), axis=1) * np.array(size)[:, None]
    return f'{{"bbox_2d": [{left:.0f}, {top:.0f}, {right:.0f}, {bottom:.0f}]}}'


def blind_answers(seed: int) -> Answer:
    """Boxes of a model that does not see, in frames that change with the seed."""
    rng = np.random.default_rng(seed)
    frames: list[Callable[[Size], Size]] = [thousandths, itself, within(3136, 1_003_520)]
    return lambda card: random_box(rng, frames[seed % 3](card.upright.size_wh))


def blind_points(seed: int) -> Answer:
    """Points of a model that does not see, in percent as Molmo's."""
    rng = np.random.default_rng(seed)
    return lambda card: MOLMO.format(*(f"{number:.1f}" for number in rng.uniform(0, 100, 2)))


def assert_none_fits(calibration: Calibration) -> None:
    assert len(calibration.heard) == len(CARDS)
    assert not calibration.is_found and not found(calibration).explains
    assert found(calibration).best.explained < 0.35 * len(CARDS), "by far"


@pytest.mark.parametrize("seed", range(1))
def test_random_boxes_fit_nothing(seed: int):
    assert_none_fits(ask(blind_answers(seed)))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 60))])
def test_random_points_fit_nothing(seed: int):
    assert_none_fits(ask(blind_points(seed)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_few_random_answers_fit_nothing(seed: int):
    """As few as are looked at, where chance has most room."""
    answer = (blind_points if seed % 2 else blind_answers)(seed)
    cards = np.random.default_rng(seed).choice(len(CARDS), FEWEST, replace=False)
    fit = found(measure("it", [Reply(CARDS[number], answer(CARDS[number])) for number in cards]))
    assert not fit.explains


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 200))
def test_random_boxes_fit_nothing_whatever_the_seed(seed: int):
    assert_none_fits(ask(blind_answers(seed)))


@pytest.mark.parametrize(
    "text",
    [
        "[0, 0, 1000, 1000]",
        '{"bbox_2d": [250, 250, 750, 750]}',
        '{"bbox_2d": [100, 200, 300, 400]}',
        "0.3, 0.3, 0.7, 0.7",
        "[0, 0, 0, 0]",
        '<point x="50.0" y="50.0" alt="it">it</point>',
    ],
)
def test_one_answer_to_everything_fits_nothing(text: str):
    assert_none_fits(ask(lambda card: text))


def test_a_model_that_is_right_about_a_quarter_of_the_cards_fits_nothing():
    rng = np.random.default_rng(0)
    right = CARDS[::4]
    calibration = ask(
        lambda card: Eye().answer(card.file, card.question) if card in right else random_box(rng, (1000, 1000))
    )
    assert 2 <= found(calibration).best.explained <= 12
    assert not calibration.is_found and not found(calibration).explains


def test_the_other_thing_fits_nothing():
    swapped = {"the red square": "the blue circle", "the blue circle": "the red square"}
    assert_none_fits(ask(lambda card: Eye().answer(card.file, swapped[card.question])))


@pytest.mark.parametrize("text", ["I'm sorry, but I can't help with that.", "It is at the top left.", "", "[]"])
def test_words_tell_nothing(text: str):
    calibration = ask(lambda card: text)
    assert not calibration.heard and calibration.fit is None and not calibration.is_found


def test_the_kind_of_answer_that_is_given_most_is_taken():
    box, point = Eye(thousandths), Eye(thousandths, "xy", form="({}, {})")
    for most, least, is_point in ((box, point, False), (point, box, True)):
        eyes = [most if number % 4 else least for number in range(len(CARDS))]
        replies = [Reply(card, eye.answer(card.file, card.question)) for card, eye in zip(CARDS, eyes, strict=True)]
        calibration = measure("it", replies)
        assert len(calibration.heard) == 25 and calibration.is_of_points == is_point and calibration.is_found


def test_few_answers_tell_nothing():
    assert calibrate(Eye(), cards=CARDS[:7]).fit is None
    assert calibrate(Eye(), cards=CARDS[:8]).fit is not None


def test_what_the_cards_do_not_tell_apart_is_not_told():
    """Without turned cards nobody knows whether orientations are heeded."""
    calibration = calibrate(Eye(), cards=tuple(card for card in CARDS if card.orientation == 1))
    assert found(calibration).explains and not calibration.is_found
    assert [trial.kind for trial in found(calibration).rivals] == [("seen", "xyxy", "stored")]


# ---- beside the convention -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eye", "expected"),
    [
        (Eye(within(3136, 50_176)), "first pixels outside a box (half-open)"),
        (Eye(within(3136, 50_176), closed=True), "last pixels inside a box (closed)"),
        (Eye(within(3136, 50_176), "xywh", closed=True), "last pixels inside a box (closed)"),
        (Eye(itself, closed=True), "last pixels inside a box (closed)"),
        (Eye(itself), "first pixels outside a box (half-open)"),
        (Eye(thousandths), "None"),  # a thousandth is no pixel
    ],
)
def test_what_right_and_bottom_are(eye: Eye, expected: str):
    assert str(describe_edges(calibrate(eye))).endswith(expected)


def test_noise_hides_what_right_and_bottom_are():
    assert describe_edges(calibrate(Eye(itself, noise=0.02), seed=0)) is None


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ('```json\n[\n\t{{"bbox_2d": [{}, {}, {}, {}]}}\n]\n```', "fenced"),
        ('[{{"bbox_2d": [{}, {}, {}, {}]}}]', "list"),
        ('{{"bbox_2d": [{}, {}, {}, {}]}}', "bare"),
        ("<|box_start|>({},{}),({},{})<|box_end|>", "tokens"),
        ("It is at ({}, {}), ({}, {}).", None),
    ],
)
def test_the_answer_form_is_told(form: str, expected: str | None):
    calibration = calibrate(Eye(thousandths, form=form))
    assert calibration.answer_form == expected
    assert calibration.is_found


# ---- held against a contract -----------------------------------------------------------------------------------


def differences_of(eye: Eye, family: str, max_tokens: int = 1280) -> list[str]:
    """Of a model whose pictures are known to be seen in the frames of a contract of that family."""
    contract = build_family_processor(family, max_tokens=max_tokens).contract
    seen = within(contract.min_pixels, contract.max_pixels, contract.patch * contract.merge)
    replies = [
        Reply(card, eye.answer(card.file, card.question), Frame(*map(int, seen(card.upright.size_wh))))
        for card in CARDS
    ]
    calibration = measure("it", replies)
    assert calibration.is_found
    return differences(calibration, contract)


FENCED = '```json\n[\n\t{{"bbox_2d": [{}, {}, {}, {}]}}\n]\n```'


def test_a_model_that_keeps_to_its_contract():
    assert differences_of(Eye(within(784, 1_003_520), form=FENCED), "qwen2_5_vl") == []
    assert differences_of(Eye(within(784, 50_176), form=FENCED), "qwen2_5_vl", 64) == []
    assert differences_of(Eye(thousandths, form=FENCED), "qwen3_vl") == []


def test_noise_makes_no_other_budget_of_the_frames_that_were_seen():
    seen, rng = within(3136, 200_000), np.random.default_rng(0)
    eye = Eye(seen, noise=0.04)
    replies = [
        Reply(card, eye.answer(card.file, card.question, rng), Frame(*map(int, seen(card.upright.size_wh))))
        for card in CARDS
    ]
    fit = found(measure("it", replies))
    assert fit.is_found and fit.best.kind == ("seen", "xyxy", "upright") and fit.best.budget is None


@pytest.mark.parametrize(
    ("eye", "family", "said"),
    [
        (
            Eye(within(3136, 12_845_056), form=FENCED),
            "qwen2_5_vl",
            "it answers as if it saw pictures within 3136 to 12845056 pixels, the contract says 784 to 1003520",
        ),
        (
            Eye(thousandths, form=FENCED),
            "qwen2_5_vl",
            "its numbers count thousandths of its sides, the contract says pixels of the picture as it was resized",
        ),
        (Eye(itself, form=FENCED), "qwen3_vl", "its numbers count pixels of the picture itself, the contract says tho"),
        (Eye(thousandths, "yxyx", form=FENCED), "qwen3_vl", "its boxes are yxyx, a contract's are xyxy"),
        (
            Eye(thousandths, heeds_exif=False, form=FENCED),
            "qwen3_vl",
            "it does not turn pictures upright; send them so",
        ),
        (Eye(thousandths), "qwen3_vl", "it writes answers of the form list, the contract says fenced"),
    ],
)
def test_a_model_that_does_not(eye: Eye, family: str, said: str):
    (only,) = differences_of(eye, family)
    assert only.startswith(said)


def test_the_family_is_told_where_only_one_answers_so():
    assert find_family(found(calibrate(Eye()))) == FAMILIES["qwen2_5_vl"]
    assert find_family(found(calibrate(Eye(thousandths)))) is None
    assert find_family(found(calibrate(Eye(within(3136, 1_003_520, 32))))) is None
    assert find_family(found(calibrate(Eye(order="yxyx")))) is None
