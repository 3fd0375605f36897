"""LLaMA-Factory, by the function behind `llamafactory-cli train`."""

from __future__ import annotations

import json
from pathlib import Path

from llamafactory.train.tuner import run_exp
from measure import Job, Meter

TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def train(job: Job, meter: Meter) -> None:
    """Ends in Measured."""
    columns = {"messages": "messages", "images": "images"}
    index = {"dialogues": {"file_name": job.dialogues, "formatting": "sharegpt", "columns": columns, "tags": TAGS}}
    Path(job.folder, "dataset_info.json").write_text(json.dumps(index), encoding="utf-8")
    run_exp(
        {
            "model_name_or_path": job.checkpoint,
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "freeze_vision_tower": False,
            "freeze_multi_modal_projector": False,
            "template": "qwen2_vl",
            "flash_attn": "sdpa",
            "dataset": "dialogues",
            "dataset_dir": job.folder,
            "overwrite_cache": True,
            "cutoff_len": 8192,
            "image_max_pixels": job.max_pixels,
            "dataloader_num_workers": 0,
            "num_train_epochs": job.epochs,
            "per_device_train_batch_size": job.batch_size,
            "gradient_accumulation_steps": job.accumulate,
            "learning_rate": 1e-5,
            "disable_gradient_checkpointing": True,
            "output_dir": f"{job.folder}/run",
            "save_strategy": "no",
            "logging_steps": 10**9,
            "report_to": "none",
            "use_cpu": True,
        }
    )
