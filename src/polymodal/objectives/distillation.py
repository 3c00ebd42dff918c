"""Distillation: how far a student is from its teacher. Every loss here is 0 where the two say the same.

A cross-entropy against soft labels has the same gradients as the KL divergence and another zero: the teacher's own
entropy. The divergence is what is told here.
Shapes: B rows; n rows, or tokens, that count; C outputs of a target; L tokens; S tokens looked at; H heads; D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, log_softmax, logsigmoid, mse_loss

from polymodal.errors import ShapeError
from polymodal.features import Task


def soft_labels(task: Task, student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """How far the student's predictions of one target are from the teacher's; mean over rows, in nats.

    T² KL(softmax(t / T) || softmax(s / T)): a higher T tells more of what the teacher holds for possible, and T² keeps
    the gradient's size. Outputs that are yes or no each by itself (binary, labels, thresholds, scores of answers) have
    the divergence of two Bernoulli distributions: its mean over labels, its sum over thresholds and answers, as the
    supervised losses have it. Of values it is the squared difference, and T has no part.

    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.

    Args:
        student: (n, C) logits, or scaled values.
        teacher: (n, C), the same for the same outputs.
        temperature: T, above 0.

    Raises:
        ShapeError: the two differ in shape, or no row counts.
    """
    _same_shape("soft_labels", student, teacher)
    if task == "regression":
        return mse_loss(student, teacher)
    squared = temperature**2
    if task in ("multiclass", "tokens"):
        return squared * _divergence(teacher / temperature, student / temperature).mean()
    each = squared * _bernoulli_divergence(teacher / temperature, student / temperature)
    return each.mean() if task in ("binary", "multilabel") else each.sum(1).mean()


def hidden_states(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of the states of real tokens.

    Source: Jiao et al. 2020 (TinyBERT), arXiv:1909.10351, equation 8.

    Args:
        student: (B, L, D), projected to the teacher's width.
        teacher: (B, L, D).
        mask: (B, L) bool, True at real tokens.

    Raises:
        ShapeError: the two differ in shape: other tokens or another width.
    """
    _same_shape("hidden_states", student, teacher)
    return mse_loss(student[mask], teacher[mask])


def attention(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher || student) of whom each real token looks at, mean over tokens and heads, in nats.

    Stacks with other numbers of heads are compared by the mean of their heads.

    Source: Wang et al. 2020 (MiniLM), arXiv:2002.10957, section 3.1. TinyBERT (arXiv:1909.10351, equation 7) takes the
    squared difference of scores before the softmax, which has no meaning for a mean over heads.

    Args:
        student: (B, H, L, S), each row of the last dimension sums to 1.
        teacher: (B, heads of its own, L, S).
        mask: (B, L) bool, True at tokens that look.

    Raises:
        ShapeError: the two differ in rows or tokens.
    """
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    _same_shape("attention", student, teacher)
    # 0 log 0 is 0, and what the student holds for impossible is kept finite.
    least = torch.finfo(student.dtype).tiny
    nats = (teacher * (teacher.clamp(min=least).log() - student.clamp(min=least).log())).sum(-1)  # (B, H, L)
    return nats.transpose(1, 2)[mask].mean()


def affinity(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], scale: Tensor, teacher_scale: Tensor
) -> Tensor:
    """KL(teacher || student) of which text each picture of a batch is like, and the reverse, mean of both, in nats.

    No pair is told to belong together: the teacher says what is like what, and a row that stands twice does no harm.

    Source: Wu et al. 2023 (TinyCLIP), arXiv:2309.12314, section 3.1 (affinity mimicking).

    Args:
        student: vectors of pictures and of texts, (B, D) each, unit length.
        teacher: the same of the same rows, of any width.
        scale, teacher_scale: (), multiply the cosines before the softmax; each model's own.

    Raises:
        ShapeError: the two do not have the same rows.
    """
    asked = _affinities(*student, scale)
    wanted = _affinities(*teacher, teacher_scale)
    _same_shape("affinity", asked, wanted)
    return (_divergence(wanted, asked).mean() + _divergence(wanted.T, asked.T).mean()) / 2


def embedding(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cosine of the vectors of the same rows: half the squared distance of their directions; 0 to 2.

    Source: the cosine loss of Sanh et al. 2019 (DistilBERT), arXiv:1910.01108, section 3.

    Args:
        student: (B, D), projected to the teacher's width.
        teacher: (B, D).

    Raises:
        ShapeError: the two differ in shape.
    """
    _same_shape("embedding", student, teacher)
    return 1 - cosine_similarity(student, teacher, dim=-1).mean()


def layer_map(student: int, teacher: int) -> list[int]:
    """For each of the student's layers the teacher's that it imitates, from 0, evenly spread; the last learns the last.

    Source: TinyBERT, arXiv:1909.10351, section 4.1 ("uniform"), rounded up where it does not divide.
    """
    return [-(-(layer + 1) * teacher // student) - 1 for layer in range(student)]


def _affinities(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    # Never in half precision, as in `contrastive`.
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        return scale * (image.to(dtype) @ text.to(dtype).T)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """(n,) KL(softmax(teacher) || softmax(student)) of logits (n, C)."""
    wanted, said = log_softmax(teacher, -1), log_softmax(student, -1)
    return (wanted.exp() * (wanted - said)).sum(-1)


def _bernoulli_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """(n, C) KL of Bernoulli distributions, given the logits of yes."""
    yes = teacher.sigmoid() * (logsigmoid(teacher) - logsigmoid(student))
    no = (-teacher).sigmoid() * (logsigmoid(-teacher) - logsigmoid(-student))
    return yes + no


def _same_shape(name: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape or not len(student):
        raise ShapeError(
            f"{name}: student and teacher must have the same shape, of at least one row, got {tuple(student.shape)} "
            f"and {tuple(teacher.shape)}"
        )
