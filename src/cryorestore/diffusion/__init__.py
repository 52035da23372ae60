"""Conditional diffusion after SR3: noise levels, network, what the network predicts, and how an image is drawn from it."""
