"""`groundling demo`: the whole job in minutes, on the bundled model and pictures drawn on the spot.

The tiny model knows coloured shapes. Here it is to find icons on screens, which it has never seen and has no words for:
draw -> check -> evaluate -> train -> evaluate -> compare -> predict -> merge, with the calls of any other training.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from groundling.data.check import check, summarize
from groundling.data.record import Record, Target, read_records, write_records
from groundling.errors import SettingsError
from groundling.evaluation.compare import compare
from groundling.evaluation.compare_page import write_comparison
from groundling.evaluation.evaluate import evaluate
from groundling.evaluation.report import read_report
from groundling.inference.gallery import answer_pictures
from groundling.inference.merge import merge
from groundling.inference.predict import Question, load
from groundling.recipe import load_settings
from groundling.tiny.scenes import draw_screen
from groundling.training.train import train

SCALE = 1.5  # screens are stored larger than the canvas, so that original and seen frame differ
TRAIN_PICTURES = 3000
TEST_PICTURES = 60
MARK = "made-by-demo.txt"

log = logging.getLogger(__name__)


def run_demo(to: Path) -> Path:
    """Do the whole job in the folder `to`, made anew; returns the page that shows before and after.

    SettingsError where the folder holds anything that no demo has made.
    """
    clear_folder(to)
    torch.set_num_threads(1)  # so small a model takes as long with two, and twice the CPU seconds
    log.info("drawing %d screens with icons", TRAIN_PICTURES + TEST_PICTURES)
    draw_records(to / "train.jsonl", pictures=TRAIN_PICTURES, seed=1)
    draw_records(to / "test.jsonl", pictures=TEST_PICTURES, seed=2)
    test = read_records(to / "test.jsonl")

    log.info("checking the records\n%s", summarize(check([*read_records(to / "train.jsonl"), *test])))
    log.info("asking the model as it comes")
    before = evaluate(load("tiny"), test, to / "before")

    log.info("training")
    run = train("tiny", *recipe_paths(to))
    after = read_report(run / "report")
    comparison = compare(before, after)
    write_comparison(comparison, to / "comparison")
    for name, report in (("before", before), ("after", after)):
        log.info("%s: acc@0.5 %.3f [%.3f, %.3f]", name, report.metrics["acc@0.5"], *report.ci95["acc@0.5"])
    log.info("%s", comparison.verdict)

    asked = ["the star icon", "the house icon"]
    pictures = pictures_of_all(test, asked)[:4]
    answer_pictures(load(str(run)), pictures, asked, draw=to / "drawn")
    questions = [Question(picture, question) for picture in pictures for question in asked]
    merged = merge(str(run), to / "merged", questions=questions)
    log.info(
        "merged to %s: %d of %d sample answers the same to the letter", *(merged.folder, merged.same, merged.asked)
    )
    return to / "comparison" / "comparison.html"


def clear_folder(to: Path) -> None:
    """Remove what an earlier demo has made in a folder, which it has marked; SettingsError where others have it."""
    mark = to / MARK
    if not mark.is_file() and to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise SettingsError(
            f"{to} is there already, and no demo has made it (it has no {MARK}); name a new folder with --to"
        )
    for name in ("images", "run", "before", "comparison", "drawn", "merged"):
        shutil.rmtree(to / name, ignore_errors=True)
    to.mkdir(parents=True, exist_ok=True)
    mark.write_text("`groundling demo` writes here, and makes all that it makes anew each time.\n", encoding="utf-8")


def pictures_of_all(records: Sequence[Record], questions: Sequence[str]) -> list[Path]:
    """The pictures about which every one of these questions is asked."""
    asked: dict[Path, set[str]] = {}
    for record in records:
        if record.image is not None:
            asked.setdefault(record.image, set()).add(record.question)
    return [image for image, found in asked.items() if found.issuperset(questions)]


def recipe_paths(to: Path) -> list[str]:
    """The shipped recipe's paths, moved to another folder than demo/."""
    own = load_settings("tiny")
    places = {"data.train": to / "train.jsonl", "data.test": to / "test.jsonl", "run.dir": to / own.run.dir.name}
    return [f"{key}={path}" for key, path in places.items()]


def draw_records(file: Path, *, pictures: int, seed: int) -> list[Record]:
    """Draw screens into the file's folder/images and write a record for each icon on them."""
    rng = np.random.default_rng(seed)
    (file.parent / "images").mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for number in range(pictures):
        scene = draw_screen(rng)
        side = round(scene.picture.width * SCALE)
        image = file.parent / "images" / f"{file.stem}-{number:04d}.png"
        scene.picture.resize((side, side)).save(image, compress_level=1)
        for placed in scene.objects:
            left, top, right, bottom = (round(edge * SCALE, 1) for edge in placed.box)
            target = Target(box=(left, top, right, bottom), label=placed.name)
            records.append(
                Record(
                    id=f"{image.stem}-{placed.name}",
                    image=image,
                    width=side,
                    height=side,
                    question=f"the {placed.name} icon",
                    targets=(target,),
                )
            )
    write_records(records, file)
    return records
