"""How often `diagnose` sees a bias of half a pixel, by the noise of the answers and by their number.

    .venv/bin/python bench/offsets.py                  # half a pixel to the left and up
    .venv/bin/python bench/offsets.py --by 0           # false alarms: none should be seen

Answers are made as tests/evaluation/made_answers.py makes them: one target a picture, of 5 to 40 % of its sides, noise
of every edge in shares of a box's side, a fifth of the boxes simply wrong, whole numbers. Behind each share: the least
offset that `diagnose` says could have been seen, the median of the draws.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "evaluation"))

from made_answers import IN_SEEN, Kind, make

from groundling.evaluation.cases import Case
from groundling.evaluation.offset import Look, find_offset
from groundling.evaluation.sheet import lay_out
from groundling.evaluation.undo import NOTHING

NOISES = (0.005, 0.01, 0.02, 0.03, 0.05)
COUNTS = {50: 1.0, 200: 0.5, 1000: 0.2, 5000: 0.05}  # answers, and the share of the draws that is made of them


def look(seed: int, count: int, noise: float, by: float) -> Look:
    """At one draw of answers, moved by as many pixels as seen."""
    sheet = lay_out(
        [
            Case(
                one.record, one.original, one.seen, one.seen, (IN_SEEN(one) + by).round(), one.labels, None, None, True
            )
            for one in make(seed, Kind(count=count, noise=noise, misses=0.2))
        ]
    )
    return find_offset(sheet, NOTHING, NOTHING.place(sheet))


def main() -> None:
    """Prints a table, one row a noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--by", type=float, default=-0.5, help="pixels (default %(default)s)")
    parser.add_argument("--draws", type=int, default=100, help="of 50 answers; fewer of more (default %(default)s)")
    options = parser.parse_args()
    print("| noise |" + "".join(f" {count} answers |" for count in COUNTS))
    print("|---|" + "---|" * len(COUNTS))
    for noise in NOISES:
        print(f"| {noise:.1%} |", end="", flush=True)
        for count, share in COUNTS.items():
            draws = max(round(share * options.draws), 1)
            looks = [look(seed, count, noise, options.by) for seed in range(draws)]
            seen = sum(each.offset is not None for each in looks)
            least = float(np.median([each.least for each in looks]))
            print(f" {seen} of {draws} (least {least:.1f}) |", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
