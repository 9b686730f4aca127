"""Fetching: URLs of strangers in, normalised pictures out, one row for every image.

worker.py           the stage: a part's plan in, images.tar and images.parquet out
members.py          the same from samples: images that lie in tars and folders; opens no connection
part.py             a part's images as its files
contract.py         what the pieces below hand each other; the place to put another one in
settings.py         the recipe's `fetch` section
downloader.py       img2dataset's Downloader, driven for one part, on top of the guard
guard.py            one URL to its bytes, within the rules of the open web
    urls.py         what may be asked for
    addresses.py    what may be connected to
    resolver.py     names to addresses, bounded and remembered
    wire.py         a connection with one deadline over everything
    optout.py       headers by which a site says no
normalise.py        bytes to the picture that is stored
    sniff.py        what bytes are, before anything decodes them
    resize.py       the geometry of the recipe's `resize`
spool.py            stored pictures on local disk, then a tar in order
"""
