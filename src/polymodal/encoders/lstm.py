"""A bidirectional LSTM over token embeddings: the baseline that a transformer should beat.

Source: Hochreiter & Schmidhuber 1997; as a text tower beside pictures: Faghri et al. 2018, arXiv:1707.05612 (VSE++,
with a one-way GRU).
Shapes: B texts; L tokens; D width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from polymodal.config import Config
from polymodal.types import Text, Tokens


class LstmConfig(Config):
    kind: Literal["lstm"] = "lstm"
    reads: ClassVar[Literal["text"]] = "text"
    vocab_size: int = Field(49408, ge=1)
    width: int = Field(512, ge=2, multiple_of=2)  # half of it for each direction
    embedding_width: int = Field(300, ge=1)
    layers: int = Field(1, ge=1, le=1000)
    dropout: float = Field(0.0, ge=0, lt=1)  # on the embeddings and between layers

    def build(self) -> "Lstm":
        return Lstm(self)


class Lstm(nn.Module):
    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_width)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(
            config.embedding_width,
            config.width // 2,
            num_layers=config.layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )

    def forward(self, text: Text) -> Tokens:
        """Tokens of (B, L) ids, padded on the right; pooled is the last state of each direction, side by side."""
        if torch.compiler.is_exporting():
            return self._unpacked(text)
        lengths = text.mask.sum(1).clamp(min=1).cpu()  # a text of nothing is read as one padding token
        packed = pack_padded_sequence(
            self.dropout(self.embedding(text.ids)), lengths, batch_first=True, enforce_sorted=False
        )
        states, (last, _) = self.lstm(packed)
        sequence, _ = pad_packed_sequence(states, batch_first=True, total_length=text.ids.shape[1])
        return Tokens(sequence, text.mask, torch.cat([last[-2], last[-1]], dim=-1))

    def _unpacked(self, text: Text) -> Tokens:
        """The same without packed sequences, which no graph format knows, and without dropout.

        Backwards is forwards through rows whose real part is turned round: so no real token sees padding before it.
        """
        places = torch.arange(text.mask.shape[1], device=text.mask.device)
        lengths = text.mask.sum(1, keepdim=True).clamp(min=1)
        turned = torch.where(places < lengths, lengths - 1 - places, places)[:, :, None]  # its own inverse
        half = self.config.width // 2
        x = self.embedding(text.ids)
        start = x.new_zeros(1, x.shape[0], half)
        for layer in range(self.config.layers):
            forth, back = (list[Tensor](weights) for weights in self.lstm.all_weights[2 * layer : 2 * layer + 2])
            ahead = torch.lstm(x, (start, start), forth, True, 1, 0.0, False, False, True)[0]
            behind = x.gather(1, turned.expand(-1, -1, x.shape[2]))
            behind = torch.lstm(behind, (start, start), back, True, 1, 0.0, False, False, True)[0]
            x = torch.cat([ahead, behind.gather(1, turned.expand(-1, -1, half))], dim=-1)
        last = ahead.gather(1, (lengths - 1)[:, :, None].expand(-1, -1, half))[:, 0]
        # Packed sequences give zeros behind a text's end.
        return Tokens(x * (places < lengths)[:, :, None], text.mask, torch.cat([last, x[:, 0, half:]], dim=-1))

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: embeddings, then each layer with both its directions."""
        layers: list[list[nn.Parameter]] = [[] for _ in range(self.config.layers)]
        for name, parameter in self.lstm.named_parameters():  # weight_ih_l0, weight_ih_l0_reverse, ...
            layers[int(name.split("_l")[1].split("_")[0])].append(parameter)
        return [list(self.embedding.parameters()), *layers]
