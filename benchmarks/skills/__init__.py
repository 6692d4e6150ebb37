"""Whether what genepool says about skills is so, measured on testbeds. Nothing here is imported by genepool."""
