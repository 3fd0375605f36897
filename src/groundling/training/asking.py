"""What takes less memory while a model is asked, and how much: changes by which it learns the same.

Counted are the keys and values of the questions that are answered at once, in the weights' own type: those of a prompt
twice, as it was read and beside the others, and those of its answer. What a pass computes on the way is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig

from groundling.model.tune import weights_dtype
from groundling.settings import Settings
from groundling.training.memory import GIB
from groundling.training.workload import WORDS


def keys_and_values(config: PretrainedConfig, settings: Settings, *, questions: int, max_tokens: int) -> int:
    """Bytes that so many questions take, at most, about pictures of `max_tokens` visual tokens."""
    text: Any = config.text_config
    side = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads  # None: Qwen2-VL, 5.17
    numbers = 2 * text.num_hidden_layers * text.num_key_value_heads * side
    tokens = 2 * (max_tokens + WORDS) + settings.evaluate.max_new_tokens
    return questions * tokens * numbers * weights_dtype(settings, has_gpu=True).itemsize


def tell_asking_remedies(
    config: PretrainedConfig, settings: Settings, *, max_tokens: int, in_training: bool
) -> Iterator[str]:
    """What is asked at once as it is, and what would take less, cheapest first; a line each."""
    now, most = settings.evaluate.batch_size, settings.evaluate.max_new_tokens

    def take(questions: int) -> str:
        taken = keys_and_values(config, settings, questions=questions, max_tokens=max_tokens)
        shown = f"{taken / GIB:.1f} GiB" if taken >= GIB else f"{taken / GIB * 1024:.1f} MiB"
        return f"up to {shown} for keys and values"

    yield f"as it is: {take(now)} of {now} questions at once, an estimate"
    for fewer in sorted({-(-now // 2), 1} - {now}, reverse=True):
        yield f"evaluate.batch_size={fewer}: {take(fewer)} (more time; a run goes on with it)"
    if in_training:
        yield "evaluate.every=0: measured at the end alone, when no optimizer's state is in memory"
    elif now == 1:
        yield f"evaluate.max_new_tokens={max(1, most // 2)}: shorter answers (longer ones are cut)"
