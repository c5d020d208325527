"""What a run would learn from, before it starts: its first examples, token by token."""

import sys

from uniapl.config import ConfigSource, load_config
from uniapl.config.recipe import Recipe
from uniapl.data.preview import preview as preview_text
from uniapl.runs.setup import load_data, load_policy

PREVIEWED = 2
"""Examples of each kind that are shown."""


def preview(config: ConfigSource, overridden: frozenset[str] = frozenset()) -> None:
    """Print the first tokenised examples of a run with their masks, as the model will see them.

    Raises:
        InputError: Something in the config or the data is wrong.
    """
    recipe = Recipe.of(load_config(config), overridden)
    _, chat = load_policy(recipe.config)
    data = load_data(recipe, chat)
    parts = [preview_text(data.demonstrations, chat.tokenizer, PREVIEWED)]
    for prompt in data.prompts[:PREVIEWED]:
        text = str(chat.tokenizer.decode(list(prompt.token_ids))).replace("\n", "\n  ")
        parts.append(
            f"preference prompt {prompt.id}: {len(prompt.token_ids)} prompt tokens\n  {text}"
        )
    for pair in data.pairs[:PREVIEWED]:
        parts.append(
            f"pair {pair.prompt.id}: {len(pair.prompt.token_ids)} prompt tokens\n  {pair.prompt.text}\n"
            f"chosen: {len(pair.chosen_ids)} tokens\n  {pair.chosen}\n"
            f"rejected: {len(pair.rejected_ids)} tokens\n  {pair.rejected}"
        )
    sys.stdout.write("\n\n".join(parts) + "\n")
