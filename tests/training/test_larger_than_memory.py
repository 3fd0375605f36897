"""Two hundred thousand records on the disk, and no more memory than for a quarter of them.

Measured in a process of its own, from its peak: the index, the rows of an epoch, and some thousands of samples.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import groundling as gl
from groundling.data.shards import write_shards

QUESTIONS = 4  # about each picture
DRAWN = 200  # pictures that differ; the others are further files with the same content

MEASURE = """
import json, resource, sys, time
from groundling.settings import Settings
from groundling.tiny.build import build_processor
from groundling.training.ready import build_dataset, build_sampler, sign_contract
from groundling.training.records import gather_records

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

folder, samples = sys.argv[1], int(sys.argv[2])
settings = Settings.model_validate(
    {"model": {"name": "tiny"}, "data": {"train": folder}, "train": {"batch_size": 8}, "run": {"dir": "run"}}
)
processor = build_processor()
import pyarrow.parquet
before, start = peak(), time.monotonic()
records = gather_records(settings, processor)
contract = sign_contract(processor.contract, records.train)
gathered = time.monotonic()
dataset = build_dataset(records, processor, settings)
rows = iter(build_sampler(records, dataset, settings))
first = next(rows)
drawn, read = time.monotonic(), 0
while read < samples:
    read += len(dataset.__getitems__(next(rows)))
print(json.dumps({
    "records": len(records.train),
    "before": before,
    "peak": peak(),
    "gathering": gathered - start,
    "drawing": drawn - gathered,
    "samples_a_second": read / (time.monotonic() - drawn),
}))
"""


class Measured(NamedTuple):
    records: int
    before: float  # MB, with the libraries loaded
    peak: float  # MB
    gathering: float  # seconds
    drawing: float
    samples_a_second: float

    @property
    def taken(self) -> float:
        """MB that the data took."""
        return self.peak - self.before


def write_many(folder: Path, records: int) -> Path:
    images = folder / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(DRAWN):
        noise = Image.fromarray(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8))
        noise.resize((112, 112)).save(images / f"drawn-{number}.jpg", quality=90)
    made: list[gl.Record] = []
    for number in range(records // QUESTIONS):
        image = images / f"{number}.jpg"
        image.symlink_to(images / f"drawn-{number % DRAWN}.jpg")
        for question in range(QUESTIONS):
            left, top = rng.integers(0, 80, 2).tolist()
            target = gl.Target(box=(left, top, left + 20, top + 30), label=f"thing {question}")
            made.append(gl.Record(f"thing {question} of {number}", image, (target,), id=f"{number}-{question}"))
    write_shards(made, folder / "train", shards=8)
    return folder / "train"


def measure(folder: Path, samples: int) -> Measured:
    environment = os.environ | {"PYTHONPATH": str(Path(gl.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(folder), str(samples)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return Measured(**json.loads(done.stdout))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    measured = [measure(write_many(tmp_path / str(count), count), 6000) for count in (50_000, 200_000)]
    quarter, whole = measured
    print("\n".join(map(str, measured)))
    size = sum(file.stat().st_size for file in (tmp_path / "200000" / "train").iterdir()) / 2**20
    shutil.rmtree(tmp_path)
    assert (quarter.records, whole.records) == (50_000, 200_000) and size > 180
    assert whole.taken < 200, "absolutely, in MB"
    assert whole.taken - quarter.taken < 60, "400 bytes for each of 150 000 records more; 1 kB a picture would be 40 MB"
