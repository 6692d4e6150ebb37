"""Compositions of hidden states: frozen models read one prompt side by side, and their layers tell each other.

`cross_attention` are CALM's connections and `stream_gates` X-Cross's gates; `lockstep` lets several networks wait for
each other behind every layer; `augmented` and `crossed` read with them, and `exchanging_model` is what tasks ask. Every
file but this one imports torch, so composers import them inside their functions.
"""
