"""Tokenizers: read, trained on your captions, extended."""

from polymodal.text.tokenizer import Tokenizer
from polymodal.text.train import extend_vocabulary, grow_embedding, train_tokenizer

__all__ = ["Tokenizer", "extend_vocabulary", "grow_embedding", "train_tokenizer"]
