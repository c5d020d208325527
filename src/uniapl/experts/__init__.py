"""Demonstrations from an expert: ask it, keep every answer, choose with the checkers.

The expert is an endpoint that speaks OpenAI's protocol, or a model on this machine behind a `Generator`.
Nothing here loads torch.
"""

from uniapl.experts.answers import Answer, Expert, Failure, Outcome, Request
from uniapl.experts.cache import AnswerCache
from uniapl.experts.collection import Collection
from uniapl.experts.endpoint import Endpoint, EndpointExpert, request_settings
from uniapl.experts.local import GeneratorExpert
from uniapl.experts.repetition import ngrams, repetition_fraction, words
from uniapl.experts.selection import Judged, is_settled, judge, select
from uniapl.experts.summary import Asked, Tally

__all__ = [
    "Answer",
    "AnswerCache",
    "Asked",
    "Collection",
    "Endpoint",
    "EndpointExpert",
    "Expert",
    "Failure",
    "GeneratorExpert",
    "Judged",
    "Outcome",
    "Request",
    "Tally",
    "is_settled",
    "judge",
    "ngrams",
    "repetition_fraction",
    "request_settings",
    "select",
    "words",
]
