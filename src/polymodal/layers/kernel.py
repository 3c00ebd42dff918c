"""A projection by likeness to landmarks: what a kernel machine looks like as a layer.

Shapes: B rows; W width of the input; M landmarks; D width of the output.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class KernelProjection(nn.Module):
    """y = sum over landmarks m of exp(-gamma |x - x_m|^2) w_m, plus a linear reading of class probabilities.

    The input is standardized, and each of its parts brought to the same length, so that a part of many numbers does
    not outvote one of few. If the last part is a classifier's logits, it is no likeness: its probabilities, at
    `temperature` and against the logits' means, choose among vectors of the classes (convex combination of semantic
    embeddings, Norouzi et al. 2014, arXiv:1312.5650).

    Landmarks, means and deviations are buffers that `train.closed_form` fills; only the weights learn.
    """

    mean: Tensor  # (W,)
    deviation: Tensor  # (W,)
    landmarks: Tensor  # (M, W without logits), unit length

    def __init__(
        self, parts: Sequence[int], classes: int, shared: int, landmarks: int, gamma: float, temperature: float
    ) -> None:
        """
        Args:
            parts: widths that make up W, the logits' last.
            classes: number of logits; 0: there are none.
            shared: D.
        """
        super().__init__()
        self.seen = tuple(parts[:-1] if classes else parts)
        self.gamma, self.temperature = gamma, temperature
        self.register_buffer("mean", torch.zeros(sum(parts)))
        self.register_buffer("deviation", torch.ones(sum(parts)))
        self.register_buffer("landmarks", torch.zeros(landmarks, sum(self.seen)))
        self.weight = nn.Parameter(torch.zeros(landmarks, shared))
        self.class_weight = nn.Parameter(torch.zeros(classes, shared)) if classes else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) of (B, W)."""
        y: Tensor = self.likeness(self.place(x), self.landmarks) @ self.weight
        if self.class_weight is not None:
            y = y + self.probabilities(x) @ self.class_weight
        return y

    def place(self, x: Tensor) -> Tensor:
        """(B, W without logits), unit length: where a row stands among the landmarks."""
        seen = sum(self.seen)
        standard = (x[:, :seen] - self.mean[:seen]) / self.deviation[:seen]
        parts = [normalize(part, dim=-1) for part in standard.split(self.seen, dim=1)]
        return torch.cat(parts, dim=1) / math.sqrt(len(parts))

    def likeness(self, places: Tensor, others: Tensor) -> Tensor:
        """(B, M), 0 to 1, of places (B, W) and (M, W) of unit length."""
        squared = 2 * (1 - places @ others.T).clamp(min=0)
        return torch.exp(-self.gamma * squared)

    def probabilities(self, x: Tensor) -> Tensor:
        """(B, classes): how much likelier than for the average picture each class is."""
        seen = sum(self.seen)
        return torch.softmax((x[:, seen:] - self.mean[seen:]) / self.temperature, dim=1)
