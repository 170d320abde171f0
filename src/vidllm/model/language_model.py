"""The language model of the shipped weights: the Llama architecture (also Qwen3's), from embeddings to logits.

RMSNorm before each part, rotary positions, grouped heads, SwiGLU. The names of the weights are those of transformers'
``LlamaForCausalLM`` and ``Qwen3ForCausalLM``; tests compare the outputs. All other language models, and everything that
transformers trains or drives, use classes of transformers (``huggingface.py``).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.model.config_fields import check_value

#: What a configuration leaves out, by model_type.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "rms_norm_eps": 1e-6, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": False,
    },
    "qwen3": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "rms_norm_eps": 1e-6,
        "attention_bias": False, "tie_word_embeddings": False,
    },
}  # fmt: skip
_PLAIN_ROPE = {"rope_type", "rope_theta", "type"}


class TextConfig:
    """A language model's ``text_config`` as in a config.json, with defaults for missing fields."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    rope_parameters: dict[str, Any]

    def __init__(self, given: dict[str, Any]) -> None:
        """ValueError for a field of another type; its form must be one of :func:`is_llama_form`."""
        self.given = given
        values = {**_DEFAULTS[given["model_type"]], **{k: v for k, v in given.items() if v is not None}}
        values.setdefault("num_key_value_heads", values["num_attention_heads"])
        values.setdefault("head_dim", values["hidden_size"] // max(1, values["num_attention_heads"]))
        values.setdefault("mlp_bias", False)
        for name in TextConfig.__annotations__:
            if name not in ("model_type", "rope_parameters"):
                kind = type(_DEFAULTS["llama"].get(name, 1))
                check_value(f"text_config.{name}", values[name], kind)
            if name != "rope_parameters":
                setattr(self, name, values[name])
        rope = _rope(given)
        self.rope_parameters = {"rope_type": "default", "rope_theta": rope.get("rope_theta", 10000.0)}

    def to_dict(self) -> dict[str, Any]:
        """As it was given."""
        return copy.deepcopy(self.given)


def is_llama_form(given: Any) -> bool:
    """Whether :class:`CausalLM` supports a ``text_config`` (a JSON object)."""
    if not isinstance(given, dict) or given.get("model_type") not in _DEFAULTS or given.get("quantization_config"):
        return False
    rope = _rope(given)
    rotates_plainly = set(rope) <= _PLAIN_ROPE and rope.get("rope_type", rope.get("type", "default")) == "default"
    whole = set(given.get("layer_types") or ["full_attention"]) == {"full_attention"}
    theta = rope.get("rope_theta", 10000.0)
    return (
        rotates_plainly and isinstance(theta, int | float) and whole and not given.get("use_sliding_window")
        and given.get("hidden_act") in (None, "silu")
    )  # fmt: skip


def _rope(given: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings under either of their names."""
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    theta = given.get("rope_theta")
    rope = rope if isinstance(rope, dict) else {"unknown": rope}
    return rope if theta is None else {"rope_theta": theta, **rope}


class KeyValueCache:
    """Keys and values (B,G,S,d) of every layer. They are replaced when they grow, never modified in place."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def get_seq_length(self) -> int:
        """How many tokens have been read."""
        return int(self.layers[0][0].shape[2]) if self.layers else 0

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, the new ones behind those that are kept."""
        if layer in self.layers:
            before = self.layers[layer]
            keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
        self.layers[layer] = keys, values
        return keys, values

    def branch(self) -> KeyValueCache:
        """A cache that starts with the same content and grows separately."""
        own = KeyValueCache()
        own.layers = dict(self.layers)
        return own

    def batch_repeat_interleave(self, rows: int) -> None:
        """The same for so many rows each."""
        self.layers = {
            n: (k.repeat_interleave(rows, 0), v.repeat_interleave(rows, 0)) for n, (k, v) in self.layers.items()
        }


@dataclass
class LanguageOutput:
    """Logits (B,S,V) of the last tokens; before each layer, and behind the last norm, hidden states; the cache."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None
    cache: KeyValueCache | None


class RMSNorm(nn.Module):
    """``w x / rms(x)``, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        """Over the last dimension."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class _Attention(nn.Module):
    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        width, size, bias = config.hidden_size, config.head_dim, config.attention_bias
        self.layer, self.head_dim = layer, size
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.q_proj = nn.Linear(width, config.num_attention_heads * size, bias=bias)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * size, bias=bias)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * size, width, bias=bias)
        if config.model_type == "qwen3":
            self.q_norm, self.k_norm = RMSNorm(size, config.rms_norm_eps), RMSNorm(size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        """``mask`` (B,1,S,T) true where a token is seen; None: every token sees those before it."""
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = rotated(q.transpose(1, 2), rotary), rotated(k.transpose(1, 2), rotary), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        if self.groups > 1:
            k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding in Llama's layout (halves); ``rotary``: cosines and sines."""
    first, second = x.chunk(2, dim=-1)
    return x * rotary[0] + torch.cat((-second, first), dim=-1) * rotary[1]


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, hidden, bias=bias), nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """SwiGLU."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class _Layer(nn.Module):
    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = _Attention(config, layer)
        self.mlp = _Mlp(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """``context``: as attention takes it."""
        x = x + self.self_attn(self.input_layernorm(x), *context)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Decoder(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config, n) for n in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class CausalLM(nn.Module):
    """Token embeddings in, next-token logits out; for inference."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        if config.num_attention_heads % config.num_key_value_heads:
            raise ValueError(f"text_config: {config.num_attention_heads} heads are not a multiple of "
                             f"{config.num_key_value_heads} key-value heads")  # fmt: skip
        self.config = config
        self.model = _Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        """The head is the token table, where they are one."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """Weights that are others, which files leave out."""
        return {"lm_head.weight": "model.embed_tokens.weight"} if self.config.tie_word_embeddings else {}

    def get_input_embeddings(self) -> nn.Embedding:
        """The token table."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """The head."""
        return self.lm_head

    def get_decoder(self) -> nn.Module:
        """The layers and their last norm."""
        return self.model

    def forward(
        self,
        inputs_embeds: Float[Tensor, "B S C"],
        attention_mask: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
        cache: KeyValueCache | None = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
        logits_to_keep: int = 0,
    ) -> LanguageOutput:
        """``attention_mask``: 0 for padding, over the cached tokens and the new ones; ``logits_to_keep``: 0 is all."""
        cache = KeyValueCache() if use_cache and cache is None else cache
        past, length = 0 if cache is None else cache.get_seq_length(), inputs_embeds.shape[1]
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=inputs_embeds.device)[None]
        x, states = inputs_embeds, [inputs_embeds]
        context = self._rotary(position_ids, x), _mask(length, past, attention_mask, x.device), cache
        for layer in self.model.layers:
            x = layer(x, *context)
            states.append(x)
        states[-1] = x = self.model.norm(x)
        logits = self.lm_head(x[:, -logits_to_keep:])
        return LanguageOutput(logits, tuple(states) if output_hidden_states else None, cache)

    def _rotary(self, positions: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B,1,S,d)."""
        size = self.config.head_dim
        exponents = torch.arange(0, size, 2, device=x.device).float() / size
        angles = positions[..., None].float() * (1.0 / self.config.rope_parameters["rope_theta"] ** exponents)
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _mask(
    length: int, past: int, attention_mask: Tensor | None, device: torch.device
) -> Bool[Tensor, "B 1 S T"] | None:
    """Which tokens each new token sees; None for plain causal attention."""
    whole = attention_mask is None or bool(attention_mask.all())
    if whole and (past == 0 or length == 1):
        return None
    seen = torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)[None, None]
    return seen if whole or attention_mask is None else seen & attention_mask[:, None, None].bool()
