"""What is trained, and on what: a model folder and rows, which are made where they aren't there."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORDS = ["the", "policy", "allows", "help", "with", "plants", "water", "soil", "light", "and", "care", "so", "answer"]


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    rows: int
    batch: int
    epochs: int
    words: tuple[int, int]
    """The shortest and the longest completion."""
    completion: int
    """Tokens that RL draws."""
    rate: float
    rl_rate: float


SMALL = Size(49152, 576, 1536, 30, 9, 3, 48, 8, 4, (60, 120), 48, 1e-4, 1e-5)
"""The shape of SmolLM2-135M."""
TINY = Size(320, 32, 64, 2, 4, 2, 16, 4, 2, (4, 12), 8, 1e-2, 1e-2)


def make_model(folder: Path, size: Size) -> Path:
    """Writes a model with random weights, the same ones always, and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    # Words that no text has: what such a model draws has to be text, too.
    vocabulary += [f"w{number}" for number in range(size.vocabulary - len(vocabulary))]
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    start, end, pad = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=start, eos_token=end, pad_token=pad)
    tokenizer.chat_template = _TEMPLATE
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.hidden,
            intermediate_size=size.inner,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.key_heads,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def layers_of(model: Path) -> int:
    """How many upper layers are trained: half of them, as a run trains the small model."""
    return max(1, int(json.loads((model / "config.json").read_bytes())["num_hidden_layers"]) // 2)


def write_rows(path: Path, size: Size) -> list[dict[str, Any]]:
    """Writes rows that serve SFT and RL alike."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for number in range(size.rows):
        draw = random.Random(number)  # noqa: S311 - rows are no secret
        text = " ".join(draw.choices(_WORDS, k=draw.randint(*size.words)))
        rows.append(
            {
                "prompt_id": f"p{number}",
                "category": "violence",
                "intent": ("benign", "harmful")[number % 2],
                "language": "en",
                "source": "gpu-check",
                "prompt": [{"role": "user", "content": f"How do I water plant {number}?"}],
                "completion": [{"role": "assistant", "content": f"<think>\n{text}\n</think>\n\nSlowly."}],
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return rows


def longest(rows: list[dict[str, Any]], model: Path) -> tuple[int, int]:
    """Tokens of the longest prompt, and of the longest row."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)

    def count(messages: list[dict[str, str]], **more: Any) -> int:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **more)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    prompts = (count(row["prompt"], add_generation_prompt=True) for row in rows)
    return max(prompts), max(count(row["prompt"] + row["completion"]) for row in rows)
