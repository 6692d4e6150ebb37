"""llama.cpp's file format: what is in a GGUF file, which architectures and tokenizers it can hold, and writing one.

The one place that knows llama.cpp's names. Read through `genepool.weights.formats.gguf`; only `writing` imports the
`gguf` package.
"""
