"""Signals: columns by pair, computed from captions and stored embeddings; never from an image.

    registry.py   the scorers: which there are, their versions and columns
    caption.py    rules over captions
    concept.py    zero-shot concepts from image embeddings
    task.py       what a scorer is asked to do
    worker.py      a part: the pass itself

A scorer is a function with a name, an integer version, parameters and declared columns. To add one, write its
module and name it in `registry.SCORERS`.
"""
