"""Accuracy under attack, its statistics, and the files it is kept in."""

from .crosscheck import PyAutoAttack
from .evaluator import (
    ENGINES,
    Evaluator,
    Images,
    Row,
    black_box,
    describe_attack,
    digest,
    evaluate,
    image_noise,
    predict,
    white_box,
)
from .files import load_arrays, read_csv, save_arrays, write_csv
from .results import (
    NATURAL,
    Evaluation,
    TransferMatrix,
    images_told,
    incomparable,
    load_evaluation,
    load_transfer_matrix,
)
from .statistics import Paired, mean_and_spread, mean_over_classes, paired, student_t, t_interval, unbalanced, wilson
from .surface import Surface, loss_surface

__all__ = [
    "ENGINES",
    "NATURAL",
    "Evaluation",
    "Evaluator",
    "Images",
    "Paired",
    "PyAutoAttack",
    "Row",
    "Surface",
    "TransferMatrix",
    "black_box",
    "describe_attack",
    "digest",
    "evaluate",
    "image_noise",
    "images_told",
    "incomparable",
    "load_arrays",
    "load_evaluation",
    "load_transfer_matrix",
    "loss_surface",
    "mean_and_spread",
    "mean_over_classes",
    "paired",
    "predict",
    "read_csv",
    "save_arrays",
    "student_t",
    "t_interval",
    "unbalanced",
    "white_box",
    "wilson",
    "write_csv",
]
