"""Commands that have grown too large for `cli.py`: the words of one each, and what it composes."""
