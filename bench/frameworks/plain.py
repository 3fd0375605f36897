"""transformers' Trainer with a collator as one would write it: decode, resize, tokenize, pad; logits everywhere."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from measure import IGNORED, Dialogue, Job, Meter, load_dialogues
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Trainer, TrainingArguments

IMAGE_TOKEN = "<|image_pad|>"


def train(job: Job, meter: Meter) -> None:
    """With the published processor's default image backend, which needs torchvision."""
    from transformers import Qwen2VLImageProcessor

    _train(job, Qwen2VLImageProcessor.from_pretrained(job.checkpoint, **_budget(job)))


def train_with_pil(job: Job, meter: Meter) -> None:
    """With its other backend, which is what there is without torchvision."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    _train(job, Qwen2VLImageProcessorPil.from_pretrained(job.checkpoint, **_budget(job)))


def _budget(job: Job) -> dict[str, Any]:
    return {"size": {"shortest_edge": 4 * 28**2, "longest_edge": job.max_pixels}}


def _train(job: Job, images: Any) -> None:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(job.checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job.checkpoint)
    arguments = TrainingArguments(
        job.folder,
        num_train_epochs=job.epochs,
        per_device_train_batch_size=job.batch_size,
        gradient_accumulation_steps=job.accumulate,
        learning_rate=1e-5,
        logging_steps=10**9,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    dialogues: Any = load_dialogues(job)
    collate = partial(join_dialogues, tokenizer=tokenizer, images=images)
    Trainer(model, arguments, train_dataset=dialogues, data_collator=collate).train()


def join_dialogues(dialogues: list[Dialogue], *, tokenizer: Any, images: Any) -> dict[str, torch.Tensor]:
    """One padded batch; the answers and their end tokens are learned."""
    pictures = [Image.open(dialogue.image).convert("RGB") for dialogue in dialogues]
    seen = images(images=pictures, return_tensors="pt")
    rows: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    for dialogue, grid in zip(dialogues, seen["image_grid_thw"], strict=True):
        prompt = _encode(tokenizer, _write_prompt(tokenizer, dialogue.question, int(grid.prod()) // 4))
        answer = _encode(tokenizer, dialogue.answer + "<|im_end|>")
        rows.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([IGNORED] * len(prompt) + answer))
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)).int(),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        **seen,
    }


def _write_prompt(tokenizer: Any, question: str, visual_tokens: int) -> str:
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    prompt = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    return prompt.replace(IMAGE_TOKEN, IMAGE_TOKEN * visual_tokens)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
