"""Checkable instructions: does a response do what its prompt asks? Pure text functions.

The 25 types of IFEval under their own ids and kwargs, in two readings: the sound one for rewards
and, with `official=True`, IFEval's own for numbers that compare with published ones.

Example:
    >>> strict(["punctuation:no_comma", "startend:quotation"], [{}, {}], '"Red, blue"')
    (False, True)
"""

from uniapl.instructions.arguments import InstructionError
from uniapl.instructions.revising import revise
from uniapl.instructions.verdicts import (
    INSTRUCTION_IDS,
    InstructionAccuracy,
    Summary,
    Verdict,
    aggregate,
    follows,
    loose_variants,
    strict,
    validate,
    validate_columns,
    verify,
)

__all__ = [
    "INSTRUCTION_IDS",
    "InstructionAccuracy",
    "InstructionError",
    "Summary",
    "Verdict",
    "aggregate",
    "follows",
    "loose_variants",
    "revise",
    "strict",
    "validate",
    "validate_columns",
    "verify",
]
