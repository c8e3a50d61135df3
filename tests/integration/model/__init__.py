"""A stateful model test of the whole relay: Hypothesis chooses who does what next."""
