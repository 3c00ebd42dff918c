"""The numbers and categories of a table's row: each column a token, or all of them through a plain MLP.

Source: Gorishniy et al. 2021, arXiv:2106.11959, sections 3.1 (MLP) and 3.3 (FT-Transformer: a feature tokenizer, then a
pre-norm Transformer read at its [CLS]).
Shapes: B rows; N columns of numbers; K of categories; D width.
"""

from itertools import accumulate
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.errors import ConfigError, ShapeError
from polymodal.features import FIRST, MISSING, UNSEEN
from polymodal.layers.branch import holds
from polymodal.layers.mlp import Activation
from polymodal.layers.transformer import Transformer
from polymodal.types import Record, Tokens


class _Columns(Config):
    """What both encoders know of the table.

    A value that training has not seen has a vector of its own, and only rows that hold such a value could train it. So
    in training a known category passes for an unseen one with the chance `unseen_dropout`.
    """

    numbers: int = Field(0, ge=0, le=10_000)  # columns
    categories: tuple[Annotated[int, Field(ge=FIRST)], ...] = Field((), max_length=10_000)  # codes of each column
    unseen_dropout: float = Field(0.01, ge=0, lt=1)

    def check(self) -> None:
        """Called by `build`, for a recipe leaves the columns to the table.

        Raises:
            ConfigError: there is no column.
        """
        if not self.numbers and not self.categories:
            raise ConfigError("a record needs at least one column: set numbers or categories")


class RecordConfig(_Columns):
    """The sizes are the defaults of the authors' package rtdl for three blocks.

    Ours differs in two things: a GELU in the place of ReGLU, and the first block keeps its first LayerNorm.
    """

    kind: Literal["record"] = "record"
    reads: ClassVar[Literal["record"]] = "record"
    width: int = Field(192, ge=1, le=2**16)
    layers: int = Field(3, ge=0, le=1000)  # 0: no [CLS], the mean of the columns' tokens; for a fusion that has layers
    heads: int = Field(8, ge=1)
    mlp_width: int | None = None  # None: 4/3 x width
    activation: Activation = "gelu"
    eps: float = 1e-5
    dropout: float = Field(0.1, ge=0, lt=1)

    def model_post_init(self, context: object) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")

    def build(self) -> "RecordEncoder":
        self.check()
        return RecordEncoder(self)


class RecordMlpConfig(_Columns):
    """The baseline that a transformer over columns should beat, and on few rows often does not."""

    kind: Literal["record_mlp"] = "record_mlp"
    reads: ClassVar[Literal["record"]] = "record"
    width: int = Field(192, ge=1, le=2**16)
    layers: int = Field(2, ge=1, le=1000)
    category_width: int = Field(8, ge=1)  # of each category's embedding
    dropout: float = Field(0.1, ge=0, lt=1)

    def build(self) -> "RecordMlp":
        self.check()
        return RecordMlp(self)


class Categories(nn.Module):
    """Codes (B, K) -> vectors (B, K, D): a table a column, one under the other in `weight`.

    The rows of missing values start at 0, so that a column that never lacked a value in training says nothing when it
    first does.
    """

    def __init__(self, sizes: tuple[int, ...], width: int, unseen_dropout: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.starts = (0, *accumulate(sizes))[:-1]
        self.unseen_dropout = unseen_dropout
        self.weight = nn.Parameter(torch.empty(sum(sizes), width))
        nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)
        with torch.no_grad():
            self.weight[[start + MISSING for start in self.starts]] = 0.0

    def forward(self, codes: Tensor) -> Tensor:
        sizes = torch.tensor(self.sizes, device=codes.device)
        if holds(((codes < 0) | (codes >= sizes)).any()):
            column = int(((codes < 0) | (codes >= sizes)).any(0).nonzero()[0])
            raise ShapeError(
                f"record encoder: codes of category {column} must be from 0 to {self.sizes[column] - 1}, got "
                f"{int(codes[:, column].min())} to {int(codes[:, column].max())}; the features and the model do not fit"
            )
        if self.training and self.unseen_dropout:
            dropped = torch.rand(codes.shape, device=codes.device) < self.unseen_dropout
            codes = codes.masked_fill(dropped & (codes >= FIRST), UNSEEN)
        return nn.functional.embedding(codes + torch.tensor(self.starts, device=codes.device), self.weight)


class Columns(nn.Module):
    """A record -> its columns' tokens (B, N + K, D): x_j W_j + b_j of number j, then the categories' vectors.

    Where number j is missing its token is a learned vector, which starts at 0. Each starts as in the authors' code,
    uniform within ±D^-½.
    """

    def __init__(self, config: RecordConfig) -> None:
        super().__init__()
        shape = (config.numbers, config.width)
        if config.numbers:
            self.weight = nn.Parameter(torch.empty(shape))
            self.bias = nn.Parameter(torch.empty(shape))
            self.missing = nn.Parameter(torch.zeros(shape))
            for parameter in (self.weight, self.bias):
                nn.init.uniform_(parameter, -(config.width**-0.5), config.width**-0.5)
        if config.categories:
            self.categories = Categories(config.categories, config.width, config.unseen_dropout)

    def forward(self, record: Record) -> Tensor:
        tokens = []
        if hasattr(self, "weight"):
            numbers, missing = _known(record)
            linear = numbers[:, :, None] * self.weight + self.bias
            tokens.append(torch.where(missing[:, :, None], self.missing, linear))
        if hasattr(self, "categories"):
            tokens.append(self.categories(record.categories))
        return torch.cat(tokens, dim=1)


class RecordEncoder(nn.Module):
    def __init__(self, config: RecordConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.columns = Columns(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = Transformer(
            config.layers,
            width,
            config.heads,
            config.mlp_width or max(1, 4 * width // 3),
            config.activation,
            config.eps,
            dropout=config.dropout,
        )
        if config.layers:
            self.class_token = nn.Parameter(torch.empty(width))
            self.post_norm = nn.LayerNorm(width, eps=config.eps)
            nn.init.uniform_(self.class_token, -(width**-0.5), width**-0.5)

    def forward(self, record: Record) -> Tokens:
        """Tokens of B records: [CLS] if there are layers, each number, each category, all of them real.

        A missing value says something and is a token like others. Numbers that are infinite or not a number count as
        missing.

        Raises:
            ShapeError: the record has other columns than the config, or a code that a column does not have.
        """
        check_columns(record, self.config)
        x = self.columns(record)
        if self.config.layers:
            x = torch.cat([self.class_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
            x = self.post_norm(self.blocks(self.dropout(x)))
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return Tokens(x, mask, x[:, 0] if self.config.layers else x.mean(1))

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: columns, each block, the last norm."""
        groups = [list(self.columns.parameters()), *(list(block.parameters()) for block in self.blocks)]
        if self.config.layers:
            groups[0].append(self.class_token)
            groups.append(list(self.post_norm.parameters()))
        return groups


class RecordMlp(nn.Module):
    def __init__(self, config: RecordMlpConfig) -> None:
        super().__init__()
        self.config = config
        if config.categories:
            self.categories = Categories(config.categories, config.category_width, config.unseen_dropout)
        width = 2 * config.numbers + len(config.categories) * config.category_width
        self.blocks = nn.ModuleList()
        for _ in range(config.layers):
            self.blocks.append(nn.Sequential(nn.Linear(width, config.width), nn.ReLU(), nn.Dropout(config.dropout)))
            width = config.width

    def forward(self, record: Record) -> Tokens:
        """One token of B records: an MLP on the numbers (0 where missing), what is missing, and the categories.

        Numbers that are infinite or not a number count as missing.

        Raises:
            ShapeError: the record has other columns than the config, or a code that a column does not have.
        """
        check_columns(record, self.config)
        numbers, missing = _known(record)
        parts = [numbers, missing.to(numbers.dtype)]
        if self.config.categories:
            parts.append(self.categories(record.categories).flatten(1))
        x = torch.cat(parts, dim=1)
        for block in self.blocks:
            x = block(x)
        return Tokens(x[:, None], torch.ones(x.shape[0], 1, dtype=torch.bool, device=x.device), x)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: the categories' vectors, if any, then each block."""
        groups = [list(block.parameters()) for block in self.blocks]
        return [list(self.categories.parameters()), *groups] if self.config.categories else groups


def check_columns(record: Record, config: _Columns) -> None:
    """
    Raises:
        ShapeError: the record has other columns than the config.
    """
    wanted = (config.numbers, len(config.categories))
    got = (record.numbers.shape[1], record.categories.shape[1])
    if got != wanted:
        raise ShapeError(
            f"record encoder: wanted {wanted[0]} columns of numbers and {wanted[1]} of categories, got {got[0]} and "
            f"{got[1]}; set numbers and categories as the features have them"
        )


def _known(record: Record) -> tuple[Tensor, Tensor]:
    """The numbers, 0 where there is none, and where there is none."""
    missing = record.missing | ~record.numbers.isfinite()
    # Filled before any product: what stands in a missing place has neither a value nor a gradient.
    return record.numbers.masked_fill(missing, 0.0), missing
