"""Several processes that train one policy: who does what, how their parts become one, and how they end together."""

from uniapl.distributed.ranks import ALONE, Ranks

__all__ = ["ALONE", "Ranks"]
