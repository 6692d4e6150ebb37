"""What is claimed of compositions in logit space, asked on the testbeds: `python -m benchmarks.composition_logits`."""
