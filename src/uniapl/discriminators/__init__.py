"""d(x, y), how much a completion looks like the expert's: one protocol, one small class per form.

| form | d | credit | learns |
|---|---|---|---|
| `likelihood` | log p_φ - log π_old, p_φ a second language model on the demonstrations | per token | in every step |
| `expert` | log p_expert - log π_old, with the expert's log-probs, or a model's that reads a hint | per token | no |
| `scalar` | a head on the last token, ranked against the expert's completion (GAD) | per completion | in every step |
| `reference` | a scorer that reads the expert's completion beside (POLAR) | per completion | unless frozen |

A new form is one more file with a class that has the protocol's methods, its row in `config/forms.py`, and its line in
`build.py`.
"""

from uniapl.discriminators.build import Seen, build_discriminator
from uniapl.discriminators.expert import hint_line
from uniapl.discriminators.protocol import Discriminator, Judgement, PolicyLogprobs

__all__ = [
    "Discriminator",
    "Judgement",
    "PolicyLogprobs",
    "Seen",
    "build_discriminator",
    "hint_line",
]
