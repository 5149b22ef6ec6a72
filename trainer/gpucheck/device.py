"""What torch sees, and what transformers does, in a process of its own: a broken driver takes nothing else along.

`python -m gpucheck.device view` lists the devices; `python -m gpucheck.device plain DEVICE DTYPE MODEL` loads a model,
asks it and has it generate. Both print JSON.
"""

import json
import sys
from typing import Any


def view() -> dict[str, Any]:
    import torch

    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        uuid = str(getattr(properties, "uuid", ""))
        devices.append(
            {
                "index": index,
                "uuid": f"GPU-{uuid.removeprefix('GPU-')}",
                "name": properties.name,
                "total": total,
                "free": free,
                "major": properties.major,
                "minor": properties.minor,
            }
        )
    return {"torch": torch.__version__, "cuda": torch.version.cuda or "", "devices": devices}


def plain(device: str, dtype: str, folder: str) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).to(device)
    inputs = tokenizer("How do I water a plant?", return_tensors="pt").to(device)
    with torch.no_grad():
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        count = inputs["input_ids"].shape[1]
        drawn = model.generate(**inputs, max_new_tokens=16, min_new_tokens=16, do_sample=False)[0, count:]
    return {
        "loss": loss.item(),
        "tokens": len(drawn),
        "text": tokenizer.decode(drawn),
        "peak": torch.cuda.max_memory_allocated() if device == "cuda" else 0,
    }


if __name__ == "__main__":
    print(json.dumps(view() if sys.argv[1] == "view" else plain(*sys.argv[2:])))
