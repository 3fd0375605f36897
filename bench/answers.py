"""Speed of answering: groundling beside a loop of transformers' `generate`, one question at a time, on the CPU.

    .venv/bin/python bench/answers.py --pictures 40 --repeats 3

The bundled model is asked about every object of drawn scenes, by both in turns; CPU seconds, one thread. It ends with 1
where an answer differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers import GenerationConfig

import groundling
from groundling.geometry.images import open_image
from groundling.inference.batch import encode_question, pad_left
from groundling.inference.predict import Grounder, Question
from groundling.tiny.scenes import draw_shapes

MAX_NEW_TOKENS = 48


def draw_questions(folder: Path, pictures: int) -> list[Question]:
    """About each object of each scene, one to four a picture."""
    rng = np.random.default_rng(0)
    questions: list[Question] = []
    for number in range(pictures):
        scene, file = draw_shapes(rng, most=4), folder / f"{number}.png"
        scene.picture.save(file)
        questions += [Question(file, f"the {placed.name}") for placed in scene.objects]
    return questions


def answer_in_turn(grounder: Grounder, questions: list[Question]) -> list[str]:
    """As one would write it: open, prepare, generate, for each question."""
    model, processor = grounder.model, grounder.processor
    model.set_attn_implementation({"text_config": "sdpa", "vision_config": "sdpa"})
    ends = [processor.end_token_id, processor.pad_token_id]
    plan = GenerationConfig(
        do_sample=False, max_new_tokens=MAX_NEW_TOKENS, eos_token_id=ends, pad_token_id=processor.pad_token_id
    )
    texts: list[str] = []
    for image, question in questions:
        prompt = encode_question(processor, question, processor.see(open_image(image)))
        inputs = processor.normalise(dict(pad_left([prompt], processor)))
        with torch.inference_mode():
            ids = model.generate(**inputs, generation_config=plan)  # type: ignore[operator]
        answer = [token for token in ids[0, len(prompt.input_ids) :].tolist() if token not in ends]
        texts.append(str(processor.tokenizer.decode(answer)))
    return texts


def answer_together(grounder: Grounder, questions: list[Question]) -> list[str]:
    """As groundling does."""
    return [found.answer.text for found in grounder.answer_all(questions, max_new_tokens=MAX_NEW_TOKENS)]


def measure(
    answer: Callable[[Grounder, list[Question]], list[str]], grounder: Grounder, questions: list[Question]
) -> tuple[list[str], float]:
    """The answers, and how many there were for a CPU second."""
    started = time.process_time()
    texts = answer(grounder, questions)
    return texts, len(questions) / (time.process_time() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    grounder = groundling.load("tiny", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        questions = draw_questions(Path(folder), options.pictures)
        rounds = [
            [measure(answer, grounder, questions) for answer in (answer_in_turn, answer_together)]
            for _ in range(options.repeats)
        ]
    differing = sum(one != other for (ones, _), (others, _) in rounds for one, other in zip(ones, others, strict=True))
    in_turn, together = (median(found[place][1] for found in rounds) for place in (0, 1))
    ratio = median(found[1][1] / found[0][1] for found in rounds)
    print(f"{len(questions)} questions about {options.pictures} pictures, {options.repeats} rounds, medians")
    print(f"one at a time {in_turn:.1f}, together {together:.1f} answers a CPU second: {ratio:.1f} times as many")
    print(f"{differing} answers differ")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
