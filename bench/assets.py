"""Makes what the frameworks train on and with, the same every time: photographs, questions, a small random model.

    python bench/assets.py --samples 64 --questions 1 2.86 8 --pixels 250880 1003520

The photographs are noise with the spectrum of one (amplitude falling as 1 / frequency), so that they compress and
decode like photographs, with eight signs drawn on each. Of each picture a set asks about as many signs as its cycle
says. The model is a Qwen2.5-VL whose vocabulary is small, so that its head has the share of the work that it has at 3B;
tokenizer, chat template and image processor are those of the bundled model.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import as_file, files
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ASSETS = Path(__file__).parent / "assets"

SIZES_WH = [(640, 480), (1024, 768), (768, 1024), (1024, 683), (1600, 1200), (1920, 1080), (2048, 1536)]
SHARES = [0.15, 0.25, 0.15, 0.15, 0.1, 0.1, 0.1]
WORDS = ["open", "cafe", "exit", "stop", "bus 42", "north", "gate", "coffee", "sale", "hotel", "bank", "taxi"]
SIGNS = 8  # on each picture
CYCLES = {"1": [1], "2.86": [1, 4, 1, 2, 1, 7, 4], "8": [8]}  # questions on picture after picture
MIN_PIXELS = 4 * 28**2  # the published models'
MAX_PIXELS = 16384 * 28**2

CHECKPOINT = ASSETS / "checkpoint"


def records_file(questions: str, samples: int) -> Path:
    """groundling's records of a set."""
    return ASSETS / f"records-{questions}x{samples}.jsonl"


def dialogues_file(questions: str, samples: int, max_pixels: int) -> Path:
    """The same questions with answers as text, for pictures of a budget."""
    return ASSETS / f"dialogues-{questions}x{samples}-{max_pixels}.jsonl"


# ---- pictures --------------------------------------------------------------------------------------------------


def draw_picture(number: int) -> dict[str, object]:
    """What a record says of picture `number`, with all its `signs`; the file is drawn where it is missing."""
    rng = np.random.default_rng(number)
    width, height = SIZES_WH[rng.choice(len(SIZES_WH), p=SHARES)]
    signs = [_place_sign(rng, width, height) for _ in range(SIGNS)]
    file = ASSETS / "images" / f"{number:05d}.jpg"
    if not file.exists():
        picture = _draw_noise(rng, width, height)
        pen = ImageDraw.Draw(picture)
        for (left, top, right, bottom), words in signs:
            pen.rectangle((left, top, right - 1, bottom - 1), fill=tuple(rng.integers(0, 200, 3).tolist()))
            pen.text((left + 3, top + 3), words, fill="white", font_size=max(8, (bottom - top) // 2))
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, quality=90)
    return {"image": f"images/{file.name}", "width": width, "height": height, "signs": signs}


def _place_sign(rng: np.random.Generator, width: int, height: int) -> tuple[tuple[int, int, int, int], str]:
    side_x, side_y = int(width * rng.uniform(0.03, 0.25)), int(height * rng.uniform(0.03, 0.15))
    left, top = int(rng.integers(0, width - side_x)), int(rng.integers(0, height - side_y))
    return (left, top, left + side_x, top + side_y), " ".join(rng.choice(WORDS, 2))


def _draw_noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Grey clouds with a little colour."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / max(width, height)) ** 1.35
    waves = amplitude * np.exp(2j * np.pi * rng.random((4, *amplitude.shape)))
    grey, *colors = np.fft.irfft2(waves, s=(height, width))
    channels = np.stack([grey + 0.25 * color for color in colors], axis=-1)
    channels = (channels - channels.mean((0, 1))) / channels.std((0, 1))
    return Image.fromarray((128 + 45 * channels).clip(0, 255).astype(np.uint8))


# ---- sets ------------------------------------------------------------------------------------------------------


def ask(questions: str, samples: int) -> Iterator[dict[str, object]]:
    """The records of a set."""
    for number, count in zip(range(samples), cycle(CYCLES[questions]), strict=False):
        picture = draw_picture(number)
        signs = picture.pop("signs")
        for place, (box, words) in enumerate(signs[:count]):
            yield {
                "id": f"{number}-{place}",
                **picture,
                "question": f'Locate the sign that says "{words}" and output the bbox coordinates in JSON format.',
                "targets": [{"box": box}],
            }


def write_set(questions: str, samples: int, budgets: list[int]) -> None:
    """The first `samples` records of a set, and the dialogues that they make at each budget."""
    records = records_file(questions, samples)
    lines = [json.dumps(record) for record in islice(ask(questions, samples), samples)]
    records.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for max_pixels in budgets:
        text = "".join(json.dumps(dialogue) + "\n" for dialogue in write_dialogues(records, max_pixels))
        dialogues_file(questions, samples, max_pixels).write_text(text, encoding="utf-8")


def write_dialogues(records: Path, max_pixels: int) -> Iterator[dict[str, object]]:
    """Each record with the answer text that groundling makes of it when pictures have this budget, as chat turns."""
    from groundling import Frame, read_records
    from groundling.inference.batch import answer_pieces
    from groundling.model.load import find_checkpoint, load_processor

    processor = load_processor(find_checkpoint(str(CHECKPOINT)))
    processor = processor.with_contract(replace(processor.contract, max_pixels=max_pixels, answer_form="bare"))
    for record in read_records(records):
        assert record.image and record.width and record.height, "every record here has a picture and its size"
        original = Frame(record.width, record.height)
        pieces = answer_pieces(processor, record, original, processor.expect(original).seen)
        answer = "".join(piece.text for piece in pieces)
        asked = {"role": "user", "content": f"<image>{record.question}"}
        yield {
            "messages": [asked, {"role": "assistant", "content": answer}],
            "images": [str(record.image.resolve())],
        }


# ---- checkpoint ------------------------------------------------------------------------------------------------


def write_checkpoint() -> None:
    """Random weights in float32 in the shape of the 3B model, with the bundled model's words and pictures."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with as_file(files("groundling.tiny") / "weights") as weights:
        bundled = Qwen2_5_VLConfig.from_pretrained(weights).to_dict()
        images = json.loads((weights / "preprocessor_config.json").read_text(encoding="utf-8"))
        CHECKPOINT.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
            shutil.copy(weights / name, CHECKPOINT)
    images["size"] = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    (CHECKPOINT / "preprocessor_config.json").write_text(json.dumps(images, indent=2), encoding="utf-8")
    text = bundled["text_config"] | {
        "vocab_size": 1280,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_types": None,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
    }
    vision = bundled["vision_config"] | {
        "depth": 4,
        "hidden_size": 80,
        "intermediate_size": 160,
        "num_heads": 2,
        "out_hidden_size": 128,
        "fullatt_block_indexes": [3],
    }
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(**bundled | {"text_config": text, "vision_config": vision})
    Qwen2_5_VLForConditionalGeneration(config).float().save_pretrained(CHECKPOINT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--questions", nargs="+", choices=CYCLES, default=["2.86"])
    parser.add_argument("--pixels", nargs="+", type=int, default=[250880])
    options = parser.parse_args()
    write_checkpoint()
    for each in options.questions:
        write_set(each, options.samples, options.pixels)
