"""genepool: merge, breed and measure fine-tuned models."""
