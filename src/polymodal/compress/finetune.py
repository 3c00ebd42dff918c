"""Fine-tuning: a model goes on learning what it was trained for, after pruning say.

    finetune:epochs=1,lr=1e-4

Weights that were pruned to zero stay zero.
"""

from dataclasses import replace
from typing import Literal

from polymodal.compress.learning import Learning, learn_pairs, learn_rows, refuse_fixed
from polymodal.compress.step import Work
from polymodal.models.clip import Clip
from polymodal.models.multimodal import Multimodal


class Finetune(Learning):
    kind: Literal["finetune"] = "finetune"

    def run(self, work: Work) -> Work:
        """
        Raises:
            ArtifactError: the model is quantized, or made of several models.
            ConfigError: `freeze` covers nothing or everything, or the model has nothing to learn.
            DataError: the rows do not allow it.
        """
        refuse_fixed(work, self.kind)
        model = work.copy()
        if isinstance(model, Clip):
            learn_pairs(work, model, self, hard=1.0)
        else:
            assert isinstance(model, Multimodal)
            learn_rows(work, model, self, hard=1.0)
        return replace(work, model=model)
