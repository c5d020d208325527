"""Policy, reference and discriminator: loading, packed log-probabilities, saving."""
