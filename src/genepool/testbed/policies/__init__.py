"""The testbed of policies: a small network that balances a pole, and a specialist for each other length of the pole.

Building needs Gymnasium (`pip install "genepool[environments]"`), so nothing is imported before it is used.
`genepool.testbed.build(folder, bed="policies")` makes one; its models play the tasks' episodes.
"""
