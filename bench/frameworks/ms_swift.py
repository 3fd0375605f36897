"""ms-swift, by the function behind `swift sft`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from measure import Job, Meter


def train(job: Job, meter: Meter) -> None:
    """Ends in Measured."""
    os.environ["MAX_PIXELS"] = str(job.max_pixels)  # its name for the budget; read when it is imported

    from swift.pipelines.train.sft import sft_main
    from swift.template.templates.qwen import Qwen2VLTemplate

    # it takes the published models' id for granted, and the small vocabulary has another
    config = json.loads(Path(job.checkpoint, "config.json").read_text(encoding="utf-8"))
    Qwen2VLTemplate.image_token_id = config["image_token_id"]
    options = {
        "model": job.checkpoint,
        "model_type": "qwen2_5_vl",
        "template": "qwen2_5_vl",
        "dataset": job.dialogues,
        "split_dataset_ratio": 0,
        "load_from_cache_file": "false",
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "max_length": 8192,
        "tuner_type": "full",
        "freeze_vit": "false",
        "freeze_aligner": "false",
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "gradient_checkpointing": "false",
        "vit_gradient_checkpointing": "false",
        "num_train_epochs": job.epochs,
        "per_device_train_batch_size": job.batch_size,
        "gradient_accumulation_steps": job.accumulate,
        "learning_rate": 1e-5,
        "output_dir": f"{job.folder}/run",
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 10**9,
        "use_hf": "true",
    }
    sft_main([word for name, value in options.items() for word in (f"--{name}", str(value))])
