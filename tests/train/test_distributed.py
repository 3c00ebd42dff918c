"""Two real gloo processes against one process that has the whole batch."""

import math
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from polymodal.objectives import info_nce
from polymodal.train.distributed import gather, world_size

PAIRS, PROCESSES = 6, 2


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(7, 4), nn.Linear(5, 4)
        self.log_scale = nn.Parameter(torch.tensor(math.log(14.0)))

    def forward(self, pixels: Tensor, words: Tensor) -> Tensor:
        image, text = gather(normalize(self.image(pixels), dim=-1)), gather(normalize(self.text(words), dim=-1))
        return info_nce(image, text, self.log_scale.exp())


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(PAIRS, 7, generator=draw), torch.randn(PAIRS, 5, generator=draw)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES)
    model = DistributedDataParallel(TwoTowers())
    pixels, words = (part.chunk(PROCESSES)[rank] for part in batch())
    loss = model(pixels, words)
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.module.named_parameters()}
    rows = gather(torch.tensor([10 * rank, 10 * rank + 1]))
    torch.save({"loss": loss.detach(), "rows": rows, "gradients": gradients}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    spawn(work, (str(tmp_path),), PROCESSES)
    alone = TwoTowers()
    loss = alone(*batch())
    loss.backward()
    assert alone.log_scale.grad is not None
    assert alone.log_scale.grad.abs() > 1e-3
    for rank in range(PROCESSES):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(result["loss"], loss.detach(), rtol=1e-5, atol=1e-6)
        assert result["rows"].tolist() == [0, 1, 10, 11]
        for name, weight in alone.named_parameters():
            torch.testing.assert_close(result["gradients"][name], weight.grad, rtol=1e-5, atol=1e-6, msg=name)


def test_without_a_process_group_it_is_the_tensor_itself() -> None:
    alone = torch.ones(2)
    assert world_size() == 1
    assert gather(alone) is alone
