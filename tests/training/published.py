"""Folders with the published configurations of Qwen2.5-VL, without weights, and the bundled tokenizer beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from groundling.model.load import TINY_FOLDER

_VISION = {
    **{"depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
    **{"in_chans": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112},
    **{"fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2},
}
_BOTH = {
    **{"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "hidden_act": "silu"},
    **{"bos_token_id": 151643, "eos_token_id": 151645, "vision_start_token_id": 151652, "vision_end_token_id": 151653},
    **{"image_token_id": 151655, "video_token_id": 151656, "max_position_embeddings": 128000, "rms_norm_eps": 1e-6},
    **{
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "use_sliding_window": False,
    },
}
SIZES: dict[str, dict[str, Any]] = {
    "3b": {
        **{"hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_hidden_layers": 36},
        **{"num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151936},
    },
    "7b": {
        **{"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28},
        **{"num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 152064},
    },
}


def write_published(folder: Path, size: str, *, with_processor: bool = True) -> Path:
    """The folder, with config.json and, of the bundled model, tokenizer and image processor."""
    folder.mkdir(parents=True)
    text = SIZES[size]
    config = _BOTH | text | {"vision_config": _VISION | {"out_hidden_size": text["hidden_size"]}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if with_processor:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
            shutil.copy(TINY_FOLDER / name, folder)
    return folder


def write_sized_records(file: Path, *, count: int = 30) -> Path:
    """Three questions about two pictures of 1024 x 768, which need not be there: their size is in the records."""
    lines = [
        {
            **{"id": str(number), "image": f"images/{number * 2 // 3}.jpg", "width": 1024, "height": 768},
            **{"question": f"sign number {number}", "targets": [{"label": "sign", "box": [10, 20, 130, 45]}]},
        }
        for number in range(count)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file
