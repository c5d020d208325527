"""The method as pure functions of tensors: no configuration, no I/O, no state.

Tokens are flat: a quantity "per token" is a vector over the completion tokens of a list of sequences, and
`sequence_index` says which sequence each belongs to. Log-probs are nats.
"""
