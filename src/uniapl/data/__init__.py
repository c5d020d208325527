"""Read demonstrations and prompts, turn them into token ids, and mix them into the batches of a run."""
