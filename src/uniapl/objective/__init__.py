"""The method as pure functions of tensors: no configuration, no I/O, no state.

A name's suffix says a tensor's shape, and docstrings write the same letters:

    _T     [T]     the completion tokens of a list of sequences, one after another without padding
    _S     [S]     one entry per sequence
    _GxN   [G, N]  one row per group (the rollouts of one prompt), one column per member
    _P     [P]     one entry per pair of completions

`sequence_index` [T] says which sequence a token belongs to. Log-probs and their differences are nats.

Masks are True where an entry counts. What a mask leaves out has no influence on values and gradients, even where it
holds infinities or NaN; an entry that counts and is not finite makes the result not finite, so that the loop notices.

No function checks the shapes or devices of its tensors: torch's own errors apply. The functions that say so check the
numbers that a user sets, and raise an `InputError` of one line.
"""
