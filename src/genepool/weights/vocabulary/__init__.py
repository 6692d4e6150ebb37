"""Vocabularies: which token each row of an embedding or a head stands for, and models shown with other rows.

`rows` finds the tensors with a row per token, `reading` says which tokens a tokenizer's files number, `comparison`
where two of them contradict each other, and `aligned` shows a model with the rows of another vocabulary.
"""

from genepool.weights.vocabulary.aligned import AlignedVocabulary, Alignment, aligned, padded
from genepool.weights.vocabulary.rows import vocabulary_rows, with_vocab_size

__all__ = ["AlignedVocabulary", "Alignment", "aligned", "padded", "vocabulary_rows", "with_vocab_size"]
