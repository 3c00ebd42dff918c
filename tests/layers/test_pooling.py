import torch

from polymodal.layers.pooling import last_real, masked_mean

SEQUENCE = torch.arange(24.0).view(3, 4, 2)
MASK = torch.tensor([[True, True, False, False], [True, True, True, True], [False, False, False, False]])


def test_the_mean_is_of_real_tokens() -> None:
    assert masked_mean(SEQUENCE, MASK).tolist() == [[1.0, 2.0], [11.0, 12.0], [0.0, 0.0]]


def test_the_last_real_token_is_found() -> None:
    assert last_real(SEQUENCE, MASK).tolist() == [[2.0, 3.0], [14.0, 15.0], [16.0, 17.0]]


def test_the_last_real_token_is_found_behind_a_gap() -> None:
    mask = torch.tensor([[True, False, True, False]])
    assert last_real(SEQUENCE[:1], mask).tolist() == [[4.0, 5.0]]
