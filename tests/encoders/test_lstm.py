"""The LSTM against one sentence at a time, without packing."""

import torch

from polymodal.encoders import LstmConfig
from polymodal.types import Text


@torch.no_grad()
def test_packing_agrees_with_reading_each_text_alone() -> None:
    torch.manual_seed(1)
    model = LstmConfig(vocab_size=20, width=8, embedding_width=5, layers=2).build().eval()
    rows = [[3, 4, 5, 6], [7, 8], [9]]
    ids = torch.tensor([row + [0] * (4 - len(row)) for row in rows])
    mask = torch.tensor([[place < len(row) for place in range(4)] for row in rows])
    tokens = model(Text(ids, mask))
    for number, row in enumerate(rows):
        states, (last, _) = model.lstm(model.embedding(torch.tensor([row])))
        torch.testing.assert_close(tokens.sequence[number, : len(row)], states[0])
        torch.testing.assert_close(tokens.pooled[number], torch.cat([last[-2, 0], last[-1, 0]]))
        assert not tokens.sequence[number, len(row) :].any()
