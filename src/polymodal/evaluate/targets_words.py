"""The words of the report on targets in English and Chinese, beside those of `words`."""

from polymodal.evaluate.words import LANGUAGES, words

TARGET_WORDS: dict[str, tuple[str, str]] = {
    "which_rows": ("measured on", "评测数据"),
    "inputs": ("Inputs", "输入"),
    "input": ("input", "输入"),
    "present": ("rows that have it", "有此输入的行"),
    "baseline": ("without inputs", "无输入基线"),
    "baseline_note": (
        "Red mark and last column: the best that an answer can do which is the same for every row (the most frequent "
        "class, the mean).",
        "红线与末列：对每一行都给出同一答案（最多的类别、平均值）所能达到的结果。",
    ),
    "rows_without_label": ("rows without a label", "无标签的行"),
    "tokens": ("tokens with a label", "有标签的词元"),
    "best_possible": ("best possible", "可达上限"),
    "curves": ("ROC", "ROC 曲线"),
    "curves_note": ("Each class against the rest. Dotted: chance.", "每个类别对其余类别。虚线：随机水平。"),
    "pr": ("Precision over recall", "精确率—召回率曲线"),
    "pr_note": ("The legend names the average precision.", "图例中为平均精确率。"),
    "calibration": ("Calibration", "校准"),
    "calibration_note": (
        "How often answers of a confidence are right. On the dotted line a probability means what it says.",
        "各置信度下答案的正确率；落在虚线上表示概率可信。",
    ),
    "before": ("as trained", "校准前"),
    "after": ("after temperature scaling", "温度缩放后"),
    "temperature": ("temperature", "温度"),
    "no_temperature": ("no temperature was fitted", "未拟合温度"),
    "scatter": ("Predicted over true", "预测值—真实值"),
    "scatter_note": ("On the dotted line a prediction is exact.", "落在虚线上为完全准确。"),
    "errors": ("Errors", "误差分布"),
    "errors_note": ("Predicted minus true value.", "预测值减去真实值。"),
    "per_label": ("By label", "各标签"),
    "per_type": ("By type of entity", "各实体类型"),
    "positives": ("rows with it", "正例数"),
    "entities": ("entities", "实体数"),
    "got": ("answered", "预测"),
    "misses_of_target": ("Worst misses", "最差示例"),
    "all_right": ("Every answer was right.", "全部正确。"),
    "warning": ("Mind", "注意"),
    "faults": ("Cells that count as empty", "按空值处理的单元格"),
    "notes": ("Notes", "说明"),
    "empty": ("(empty)", "（空）"),
    "binary": ("two classes", "二分类"),
    "multiclass": ("classes", "多分类"),
    "multilabel": ("labels", "多标签"),
    "regression": ("a number", "回归"),
    "ordinal": ("ordered classes", "有序分类"),
    "soft": ("answers of several people", "多人作答"),
    "token_labels": ("a tag for each word", "逐词标注"),
    "auroc": ("AUROC", "AUROC"),
    "average_precision": ("average precision", "平均精确率"),
    "balanced_accuracy": ("balanced accuracy", "平衡准确率"),
    "f1": ("F1", "F1"),
    "f1_micro": ("micro F1", "微平均 F1"),
    "recall": ("recall (sensitivity)", "召回率（灵敏度）"),
    "specificity": ("specificity", "特异度"),
    "nll": ("log loss (nats)", "对数损失"),
    "brier": ("Brier score", "Brier 分数"),
    "ece": ("calibration error (ECE)", "校准误差 (ECE)"),
    "exact_match": ("all labels right", "标签全对"),
    "rmse": ("root mean squared error", "均方根误差"),
    "mae": ("mean absolute error", "平均绝对误差"),
    "r2": ("R² (explained share of the variance)", "R²（解释方差比例）"),
    "kappa": ("kappa (quadratic weights)", "加权 kappa"),
    "vqa_accuracy": ("VQA accuracy", "VQA 准确率"),
}

# What `chosen` calls the rows.
REASONS = {
    "the rows that were kept apart from training": "训练时留出的行",
    "the rows that training was validated on": "训练时用于验证的行",
    "the rows that it was trained on": "训练所用的行",
    "all rows of the table": "数据表的全部行",
}


def target_words(lang: str) -> dict[str, str]:
    """key -> word, those of `words` among them. `lang` is one of LANGUAGES."""
    return words(lang) | {key: both[LANGUAGES.index(lang)] for key, both in TARGET_WORDS.items()}
