"""The digits testbed: a small vision transformer and up to eight specialists on scikit-learn's digits, rearranged.

Building needs torch and scikit-learn (`pip install "genepool[digits]"`), so nothing is imported before it is used.
`genepool.testbed.build(folder, bed="digits")` makes one; its models and tasks are asked as any others are.
"""
