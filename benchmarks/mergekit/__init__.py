"""Everything that can be written for mergekit, held against genepool by running both."""
