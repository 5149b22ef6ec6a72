"""Models in memory and on disk: load, freeze, save."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from precept_trainer.protocol import invalid


def device_of(wanted: str, threads: int) -> torch.device:
    """The device to run on. Sets the number of CPU threads."""
    if threads:
        torch.set_num_threads(threads)
    if wanted == "cuda" and not torch.cuda.is_available():
        raise invalid("device cuda was asked for and torch finds none: use auto or cpu, or check the driver")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def tokenizer_in(folder: str) -> PreTrainedTokenizerBase:
    """A folder's tokenizer. Code that lies in the folder is not run."""
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except ValueError as err:
        raise _needs_code(folder, err) from err
    return found


def weights_in(folder: str, **settings: Any) -> PreTrainedModel:
    """A folder's weights, from safetensors alone: a pickle can hold code. Code that lies in the folder is not run."""
    _require(folder, "config.json")
    if not any(Path(folder).glob("*.safetensors")):
        others = sorted(p.name for p in Path(folder).iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".h5"})
        raise invalid(
            f"model {folder}: its weights are not safetensors ({', '.join(others) or 'there are none'}): "
            "other forms can hold code and are not read; convert the model to safetensors first"
        )
    try:
        found: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, **settings
        )
    except ValueError as err:
        raise _needs_code(folder, err) from err
    return found


def _needs_code(folder: str, err: ValueError) -> Exception:
    if "trust_remote_code" in str(err):
        return invalid(
            f"model {folder}: it needs code of its own, which is not run: take a model that transformers knows"
        )
    return err


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    _require(folder, "tokenizer_config.json")
    tokenizer = tokenizer_in(folder)
    if not tokenizer.chat_template:
        raise invalid(f"model {folder}: its tokenizer has no chat template")
    if tokenizer.eos_token_id is None:
        raise invalid(f"model {folder}: its tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load(folder: str, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = weights_in(folder, dtype=dtype, attn_implementation="sdpa")
    highest, rows = max(tokenizer.get_vocab().values()), int(model.get_input_embeddings().num_embeddings)
    if highest >= rows:
        raise invalid(
            f"model {folder}: its tokenizer has a token {highest} and its embeddings have {rows} rows: the tokenizer "
            "is another model's"
        )
    return model


def _require(folder: str, name: str) -> None:
    if not (Path(folder) / name).is_file():
        raise invalid(f"model {folder}: there is no {name} in it")


def decoder_layers(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def freeze_below(model: PreTrainedModel, upper: int) -> None:
    """Leaves the upper layers and the final norm to be trained; 0 leaves everything.

    A head that is tied to the embeddings is frozen with them.
    """
    if upper == 0:
        return
    layers = decoder_layers(model)
    if upper > layers:
        raise invalid(f"trainable_layers is {upper} and the model has {layers} layers")
    backbone: Any = model.base_model
    model.requires_grad_(False)
    for trained in (*backbone.layers[layers - upper :], backbone.norm):
        trained.requires_grad_(True)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output: str) -> None:
    """Writes a model folder that appears complete or not at all, and the same bytes for the same weights."""
    target = Path(output)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    for name, keys in (("config.json", ("_name_or_path",)), ("tokenizer_config.json", ("is_local", "name_or_path"))):
        _drop_keys(partial / name, keys)  # where it was read from is no part of a model
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


def _drop_keys(path: Path, keys: tuple[str, ...]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {k: v for k, v in content.items() if k not in keys}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
