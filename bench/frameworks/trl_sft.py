"""TRL's SFTTrainer, on prompts and completions with a column of pictures."""

from __future__ import annotations

import torch
from datasets import Dataset, Image, List
from measure import Job, Meter, load_dialogues
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from trl import SFTConfig, SFTTrainer


def train(job: Job, meter: Meter) -> None:
    """Ends in Measured."""
    rows = [
        {
            "images": [dialogue.image],
            "prompt": [{"role": "user", "content": dialogue.question}],
            "completion": [{"role": "assistant", "content": dialogue.answer}],
        }
        for dialogue in load_dialogues(job)
    ]
    dataset = Dataset.from_list(rows).cast_column("images", List(Image()))
    processor = AutoProcessor.from_pretrained(job.checkpoint)
    processor.image_processor.size = {"shortest_edge": 4 * 28**2, "longest_edge": job.max_pixels}
    arguments = SFTConfig(
        job.folder,
        num_train_epochs=job.epochs,
        per_device_train_batch_size=job.batch_size,
        gradient_accumulation_steps=job.accumulate,
        learning_rate=1e-5,
        max_length=None,  # no answer is cut
        gradient_checkpointing=False,
        bf16=False,
        logging_steps=10**9,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(job.checkpoint, dtype=torch.float32)
    SFTTrainer(model, arguments, train_dataset=dataset, processing_class=processor).train()
