"""The testbed of streams: a classifier that never saw a corruption, and folders of corrupted examples in an order.

`corruptions` spoils images, `folders` writes streams, `builder` trains the base; `beds/streams.py` names it. `texts`
and `text_builder` do the same for texts.
"""
