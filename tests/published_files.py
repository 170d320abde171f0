"""Small checkpoints in the form of the published ones: VGGT, LLaVA-3D (sharded, with CLIP's tower), a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast

from vidllm.model.patches_3d import PositionEmbedding, Projector

WORDS = "<pad> <s> </s> <unk> a the how many chairs are there ? . : user assistant question using one word phrase"


def write_tokenizer(folder: Path) -> None:
    vocabulary = {word: i for i, word in enumerate(WORDS.split())}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


def write_shards(folder: Path, tensors: dict[str, Tensor], count: int = 3, kind: str = "safetensors") -> list[Path]:
    """Shards and their index, as the hub has them."""
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names, files, index = sorted(tensors), [], {}
    for number in range(count):
        file = folder / f"{stem}-{number + 1:05d}-of-{count:05d}.{kind}"
        part = {name: tensors[name].contiguous().clone() for name in names[number::count]}
        save_file(part, file) if kind == "safetensors" else torch.save(part, file)
        index.update(dict.fromkeys(part, file.name))
        files.append(file)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return files


def write_vggt(folder: Path, golden: Path) -> Path:
    folder.mkdir(parents=True)
    constructor = json.loads((golden / "vggt_tiny_a" / "README.json").read_text())["constructor"]
    (folder / "config.json").write_text(json.dumps(constructor))
    save_file(load_file(golden / "vggt_tiny_a" / "weights.safetensors"), folder / "model.safetensors")
    return folder


def llava_3d_settings(golden: Path, **changes: Any) -> dict[str, Any]:
    return json.loads((golden / "llava3d_tiny" / "README.json").read_text())["config"] | changes


def llava_3d_tensors(settings: dict[str, Any], clip: dict[str, Any], tower: bool = True) -> dict[str, Tensor]:
    """Random weights under LLaVA-3D's names."""
    fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    llama = AutoConfig.for_model("llama", **{name: settings[name] for name in fields}, tie_word_embeddings=False)
    width, text = settings["mm_hidden_size"], settings["hidden_size"]
    tensors = dict(AutoModelForCausalLM.from_config(llama).state_dict())
    head = "position_embedding_head."
    for prefix, module in (
        ("model.mm_projector.", Projector(width, text)),
        ("model.video_tower.video_tower.positional_embedding.", PositionEmbedding(width)),
        ("model.video_tower.prompt_encoder.pos_emb3d.", PositionEmbedding(text)),
    ):
        tensors |= {prefix + name: value for name, value in module.state_dict().items()}
    assert f"model.video_tower.prompt_encoder.pos_emb3d.{head}0.weight" in tensors
    if tower:
        vision = CLIPVisionModel(CLIPVisionConfig(**{k: v for k, v in clip.items() if k != "model_type"}))
        prefix = "model.vision_tower.vision_tower.vision_model."
        tensors |= {prefix + name.removeprefix("vision_model."): value for name, value in vision.state_dict().items()}
    return tensors


def write_llava_3d(folder: Path, golden: Path, kind: str = "safetensors", **changes: Any) -> Path:
    """LLaVA-3D as published: the golden weights with random ones for the blocks they leave out, in three shards.

    ``changes`` of the configuration give random weights throughout.
    """
    folder.mkdir(parents=True)
    settings = llava_3d_settings(golden, **changes)
    clip = json.loads((golden / "llava3d_tiny" / "README.json").read_text())["clip_config"]
    clip = clip | {"hidden_size": settings["mm_hidden_size"]}
    clip = {k: v for k, v in clip.items() if k not in ("architectures", "torch_dtype", "transformers_version")}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text(json.dumps(clip))
    torch.manual_seed(1)
    tensors = llava_3d_tensors(settings, clip)
    if not changes:
        known = load_file(golden / "llava3d_tiny" / "weights.safetensors")
        assert set(known) <= set(tensors)
        tensors |= known
    write_shards(folder, tensors, kind=kind)
    write_tokenizer(folder)
    return folder
