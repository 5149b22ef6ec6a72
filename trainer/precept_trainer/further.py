"""Further settings of TRL's configurations, those that no job field stands for.

`python -m precept_trainer.further` writes what is known of them as JSON: schemas/trainerfields.json, by which a RunSpec
is checked when a run starts. A field that Precept owns is refused by name, with the reason.
"""

import dataclasses
import json
import sys
import types
import typing
from typing import Any

from precept_trainer.protocol import invalid

_SPEC = {
    "learning_rate": "set learning_rate",
    "seed": "set the run's seed",
    "data_seed": "set the run's seed",
    "save_steps": "set save_steps",
    "report_to": "set report_to",
}
_RESUMING = "any death resumes as Precept has it"
_DEVICES = "the worker plans it by its devices"
_DATA = "Precept prepares the rows"
_LOGS = "Precept follows the training"
_PUBLISHING = "a model goes to the run's store; starter pull fetches it"
_SAFETY = "no foreign code is run and no weights but safetensors are read"

_OWNED = {
    **_SPEC,
    **dict.fromkeys(
        [
            "output_dir",
            "save_strategy",
            "save_total_limit",
            "save_on_each_node",
            "save_only_model",
            "enable_jit_checkpoint",
            "load_best_model_at_end",
            "metric_for_best_model",
            "greater_is_better",
            "ignore_data_skip",
            "resume_from_checkpoint",
            "restore_callback_states_from_checkpoint",
            "do_train",
            "do_eval",
            "do_predict",
        ],
        _RESUMING,
    ),
    **dict.fromkeys(
        [
            "use_cpu",
            "bf16",
            "fp16",
            "bf16_full_eval",
            "fp16_full_eval",
            "gradient_accumulation_steps",
            "auto_find_batch_size",
            "accelerator_config",
            "parallelism_config",
            "fsdp",
            "fsdp_config",
            "deepspeed",
            "ddp_backend",
            "ddp_timeout",
            "local_rank",
            "per_device_eval_batch_size",
            "dataloader_pin_memory",
        ],
        _DEVICES,
    ),
    **dict.fromkeys(
        [
            "remove_unused_columns",
            "label_names",
            "include_for_metrics",
            "batch_eval_metrics",
            "prediction_loss_only",
            "chat_template_path",
            "chat_template_kwargs",
            "dataset_text_field",
            "dataset_kwargs",
            "dataset_num_proc",
            "eos_token",
            "pad_token",
            "truncation_mode",
            "shuffle_dataset",
            "completion_only_loss",
            "assistant_only_loss",
            "packing_strategy",
            "eval_packing",
            "padding_free",
            "length_column_name",
        ],
        _DATA,
    ),
    **dict.fromkeys(
        [
            "logging_strategy",
            "logging_steps",
            "logging_first_step",
            "log_on_each_node",
            "logging_nan_inf_filter",
            "log_level",
            "log_level_replica",
            "disable_tqdm",
            "run_name",
            "project",
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
            "include_num_input_tokens_seen",
            "eval_strategy",
            "eval_steps",
            "eval_delay",
            "eval_on_start",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "eval_accumulation_steps",
            "skip_memory_metrics",
            "debug",
            "log_completions",
            "log_multimodal",
            "num_completions_to_print",
            "log_unique_prompts",
            "log_completions_hub_repo",
        ],
        _LOGS,
    ),
    **dict.fromkeys(
        [
            "push_to_hub",
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
        ],
        _PUBLISHING,
    ),
    **dict.fromkeys(["model_init_kwargs", "trust_remote_code"], _SAFETY),
    **dict.fromkeys(
        ["use_liger_kernel", "liger_kernel_config", "use_transformers_paged", "vllm_importance_sampling_cap"],
        "TRL has given it up",
    ),
}
OWNED = {
    "sft": {
        **_OWNED,
        "num_train_epochs": "set epochs",
        "max_steps": "set epochs",
        "per_device_train_batch_size": "set batch_size",
        "max_length": "set max_length",
        "packing": "set packing",
    },
    "rl": {
        **_OWNED,
        "max_steps": "set steps",
        "num_train_epochs": "set steps",
        "per_device_train_batch_size": "set prompts_per_step and generations",
        "generation_batch_size": "set prompts_per_step and generations",
        "steps_per_generation": "every checkpoint lies between two generations",
        "num_iterations": "every checkpoint lies between two generations",
        "num_generations": "set generations",
        "num_generations_eval": "set generations",
        "max_completion_length": "set max_tokens",
        "temperature": "set temperature",
        "loss_type": "set loss",
        "beta": "set beta",
        "epsilon": "set epsilon",
        "epsilon_high": "set epsilon_high",
        "scale_rewards": "set scale_rewards",
        "mask_truncated_completions": "set mask_truncated",
        "reward_weights": "set rewards",
        "multi_objective_aggregation": "set rewards",
        "train_sampling_strategy": "the intents take turns",
    },
}
"""By kind of job: the fields that are Precept's, and why or what is set in their place."""

PLACEMENT = {
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "activation_offloading",
    "dataloader_multiprocessing_context",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "torch_empty_cache_steps",
    "vllm_enable_sleep_mode",
    "vllm_gpu_memory_utilization",
    "vllm_group_port",
    "vllm_mode",
    "vllm_server_base_url",
    "vllm_server_host",
    "vllm_server_port",
    "vllm_server_timeout",
    "vllm_tensor_parallel_size",
}
"""The fields that say where and in how much memory a model is trained, and not what it learns."""


def settings(kind: str, config: type, own: dict[str, Any], defaults: dict[str, Any], further: dict[str, Any]) -> Any:
    """TRL's configuration: what Precept says, then what the job says further, then defaults."""
    names = {f.name for f in dataclasses.fields(config)}
    for name in further:
        if name in OWNED[kind] or name in own:
            raise invalid(f"{kind}.trainer.{name} is Precept's own: {OWNED[kind].get(name, 'it sets the field')}")
        if name not in names:
            raise invalid(f"{kind}.trainer.{name}: {config.__name__} has no such field")
    try:
        return config(**{**defaults, **further, **own})
    except (TypeError, ValueError, KeyError) as err:
        raise invalid(f"{kind}.trainer: {config.__name__} refuses it: {err}") from err


def json_types(hint: Any) -> list[str]:
    """What a value of the type is in JSON."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return sorted({t for part in typing.get_args(hint) for t in json_types(part)})
    origin = typing.get_origin(hint) or hint
    if origin is type(None):
        return ["null"]
    if origin is bool or hint == typing.Literal[False]:
        return ["boolean"]
    if origin is int:
        return ["integer"]
    if origin is float:
        return ["number"]
    if origin is dict:
        return ["object"]
    if origin is list:
        return ["array"]
    return ["string"]  # text, and enumerations by their values


def document() -> dict[str, Any]:
    """The fields of both configurations: what a value is, or why it isn't to be set."""
    from trl import GRPOConfig, SFTConfig

    found: dict[str, Any] = {}
    for kind, config in (("sft", SFTConfig), ("rl", GRPOConfig)):
        hints = typing.get_type_hints(config)
        names = [f.name for f in dataclasses.fields(config)]
        unknown = OWNED[kind].keys() - set(names) - _OWNED.keys()
        if unknown:
            raise AttributeError(f"{config.__name__} has no {', '.join(sorted(unknown))}")
        found[kind] = {
            name: {"owned": OWNED[kind][name]}
            if name in OWNED[kind]
            else {"types": json_types(hints[name])} | ({"placement": True} if name in PLACEMENT else {})
            for name in sorted(names)
        }
    return found


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
    sys.stdout.write("\n")
