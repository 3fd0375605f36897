"""The words of the tiny model: those its tokenizer knows whole, and the wordings that its schooling asks in.

A vocabulary holds more words than the schooling teaches: the icons of the demo are among NOUNS, and are never taught.
"""

from __future__ import annotations

import string

import numpy as np

from groundling.tiny.scenes import ICONS

# every one holds {question}; the contract's own template is asked as often as all of these together
WORDINGS = (
    "Where is {question}?",
    "Find {question}.",
    "Point to {question} and answer in JSON.",
    "Please locate {question} in the picture.",
    "Detect {question} in this image.",
    "I am looking for {question}. Where in this image is it? Give the bbox as JSON.",
    "Output the bbox coordinates of {question}, in JSON format, one line for each object that you can see.",
    "{question}",
)
LEADS = ("the ", "a ", "this ", "")
TRAILS = ("", "", "", " here", " please", " in the middle or at the edge", " on the screen")

NOUNS = (
    *("apple", "arrow", "bag", "ball", "bed", "bell", "bike", "bird", "boat", "bolt", "book", "bottle", "bowl"),
    *("box", "bus", "button", "cake", "camera", "car", "cat", "chair", "clock", "cloud", "cow", "cup", "desk", "dog"),
    *("door", "duck", "face", "fish", "flag", "flower", "fork", "gate", "gear", "hand", "hat", "heart", "horse"),
    *("house", "icon", "key", "knife", "lamp", "leaf", "lock", "man", "map", "moon", "mug", "owl", "pen", "phone"),
    *("pig", "plane", "plate", "road", "roof", "sheep", "ship", "shoe", "sign", "sofa", "star", "sun", "table"),
    *("text", "tie", "train", "tree", "truck", "wall", "wheel", "window", "woman", "word"),
)
UNTAUGHT = (*ICONS, "icon")


def draw_word(rng: np.random.Generator) -> str:
    """A word that means nothing to the tiny model: a noun, or letters at random."""
    if rng.random() < 0.5:
        return str(rng.choice([noun for noun in NOUNS if noun not in UNTAUGHT]))
    return "".join(rng.choice(list(string.ascii_lowercase), size=int(rng.integers(2, 8))))
