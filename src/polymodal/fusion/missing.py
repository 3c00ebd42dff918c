"""Inputs that a row does not have: a learned token in their place, and dropping inputs in training.

Source of dropping inputs: Neverova et al. 2015, arXiv:1501.00102 ("ModDrop"). One learned token for what is absent is
to an input what [MASK] is to a word.
Shapes: B rows; M inputs; L tokens; D width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymodal.layers.branch import holds
from polymodal.layers.named import module_name
from polymodal.types import Tokens


class Missing(nn.Module):
    """Stands between the encoders and the fusion: an absent input becomes one learned token.

    Args:
        widths: of each input's `pooled`.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.names = list(widths)
        self.learned = nn.ParameterDict(
            {module_name(name): nn.Parameter(torch.empty(width)) for name, width in widths.items()}
        )
        for token in self.learned.values():
            nn.init.normal_(token, std=0.02)  # as BERT starts its embeddings

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor]) -> dict[str, Tokens]:
        """Tokens of every input, in the order of `widths`.

        Where a row lacks an input, its only unmasked place is the first, and that and `pooled` are the learned token.
        What stood there has no effect on values or gradients, NaN included.

        Args:
            tokens: by the input's name; an input that is not there at all is absent in every row.
            present: (B,) bool, by the input's name.
        """
        filled = {}
        for name in self.names:
            token, there = self.learned[module_name(name)], present[name]
            filled[name] = (
                self._filled(tokens[name], there, token) if name in tokens else self._absent(there.shape[0], token)
            )
        return filled

    @staticmethod
    def _filled(given: Tokens, present: Tensor, token: Tensor) -> Tokens:
        if holds(present.all()):
            return given
        sequence, mask, pooled = given
        # An encoder whose vector is wider than its tokens (several levels read) gets the part that fits.
        first = token[: sequence.shape[-1]].to(sequence.dtype)
        only_first = torch.arange(mask.shape[1], device=mask.device) == 0
        filler = torch.where(only_first[:, None], first, 0)
        return Tokens(
            torch.where(present[:, None, None], sequence, filler),
            mask & present[:, None] | only_first & ~present[:, None],  # ONNX Runtime has no `where` of bools
            torch.where(present[:, None], pooled, token.to(pooled.dtype)),
        )

    @staticmethod
    def _absent(rows: int, token: Tensor) -> Tokens:
        pooled = token.expand(rows, -1)
        return Tokens(pooled[:, None], torch.ones(rows, 1, dtype=torch.bool, device=token.device), pooled)


def drop_inputs(present: Mapping[str, Tensor], probability: float) -> dict[str, Tensor]:
    """`present` (B,) with inputs dropped at random, for each row its own; a row never loses all that it has.

    Args:
        present: (B,) bool, by the input's name.
        probability: 0 to 1, of each input that a row has; the last one left stays, whichever that is.
    """
    there = torch.stack(list(present.values()), 1)
    draw = torch.rand(there.shape, device=there.device)
    highest = draw.masked_fill(~there, -1.0).amax(1, keepdim=True)
    kept = there & ((draw >= probability) | (draw == highest))
    return dict(zip(present, kept.unbind(1), strict=True))
