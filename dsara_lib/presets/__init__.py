"""Settings by name: profiles, the variants of the method that are compared, and changes to single settings."""

from .making import attacks_at, fit, make_preset, override
from .profiles import DEMO, PAPER, PRESETS, PUBLISHED_CODE, SHORT, EvaluationConfig, Preset
from .transfer import Source, decided_by, recorded, source_of, space_of
from .variants import ABLATIONS, METHODS, VARIANTS, Variant

__all__ = [
    "ABLATIONS",
    "DEMO",
    "METHODS",
    "PAPER",
    "PRESETS",
    "PUBLISHED_CODE",
    "SHORT",
    "VARIANTS",
    "EvaluationConfig",
    "Preset",
    "Source",
    "Variant",
    "attacks_at",
    "decided_by",
    "fit",
    "make_preset",
    "override",
    "recorded",
    "source_of",
    "space_of",
]
