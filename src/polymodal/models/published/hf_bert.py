"""transformers' BertModel on disk, and what sentence-transformers adds."""

from typing import Any

from polymodal.encoders.bert import BertConfig
from polymodal.models.published.keymap import BlockNames, Entry, affine, same

DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
}
BLOCK = BlockNames(
    norm1="attention.output.LayerNorm",
    qkv=("attention.self.query.", "attention.self.key.", "attention.self.value."),
    out="attention.output.dense",
    norm2="output.LayerNorm",
    fc1="intermediate.dense",
    fc2="output.dense",
)
HEADS = ("cls.", "classifier.", "qa_outputs.")  # of the tasks that BERT was trained on
ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}
THEIR_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}


def config_of(settings: dict[str, Any], pool: str) -> BertConfig:
    read = DEFAULTS | settings
    return BertConfig.parse(
        {
            "vocab_size": read["vocab_size"],
            "max_length": read["max_position_embeddings"],
            "segments": read["type_vocab_size"],
            "width": read["hidden_size"],
            "layers": read["num_hidden_layers"],
            "heads": read["num_attention_heads"],
            "mlp_width": read["intermediate_size"],
            "activation": ACTIVATIONS.get(read["hidden_act"], read["hidden_act"]),
            "eps": read["layer_norm_eps"],
            "pool": pool,
            "dropout": read["hidden_dropout_prob"],
        },
        "config.json",
    )


def settings_of(config: BertConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_length,
        "type_vocab_size": config.segments,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width or 4 * config.width,
        "hidden_act": THEIR_ACTIVATIONS[config.activation],
        "layer_norm_eps": config.eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "pad_token_id": 0,
    }


def entries(config: BertConfig, ours: str = "", theirs: str = "") -> list[Entry]:
    """Args: `ours`, `theirs`: prefixes with their dot."""
    table = f"{theirs}embeddings"
    found = [
        same(f"{ours}embedding.weight", f"{table}.word_embeddings.weight"),
        same(f"{ours}positions", f"{table}.position_embeddings.weight"),
        same(f"{ours}segments", f"{table}.token_type_embeddings.weight"),
        *affine(f"{ours}norm", f"{table}.LayerNorm"),
        *BLOCK.entries(f"{ours}blocks", f"{theirs}encoder.layer", config.layers),
    ]
    return found + (affine(f"{ours}pooler.0", f"{theirs}pooler.dense") if config.pool == "pooler" else [])
