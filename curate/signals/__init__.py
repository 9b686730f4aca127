"""Signals: columns by pair, computed from captions and stored embeddings; never from an image.

    registry.py   the scorers: which there are, their versions and columns
    caption.py    rules over captions
    vectors.py    what the following share: a part's image embeddings, measured
    concept.py    zero-shot concepts
    classes.py    zero-shot classes
    head.py       linear and MLP heads from a file
    target.py     similarity to a set of images
    task.py       what a scorer is asked to do
    worker.py     a part: the pass itself

A scorer is a function with a name, an integer version, parameters and declared columns. To add one, write its
module and name it in `registry.SCORERS`.
"""
