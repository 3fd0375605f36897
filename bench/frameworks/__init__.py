"""The frameworks that are measured: one small file each, with a function that trains as a job says."""

from __future__ import annotations

from typing import NamedTuple


class Framework(NamedTuple):
    """Where a framework is installed, and what trains with it."""

    title: str
    environment: str | None  # of bench/environments; None: groundling's own
    module: str
    function: str = "train"


FRAMEWORKS = {
    "groundling": Framework("groundling", None, "ours"),
    "plain": Framework("transformers Trainer, torchvision images", "plain", "plain"),
    "plain-pil": Framework("transformers Trainer, PIL images", None, "plain", "train_with_pil"),
    "trl": Framework("TRL SFTTrainer", "trl", "trl_sft"),
    "ms-swift": Framework("ms-swift", "ms-swift", "ms_swift"),
    "llamafactory": Framework("LLaMA-Factory", "llamafactory", "llama_factory"),
}
