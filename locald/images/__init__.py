"""Images: pull them, keep them by digest, unpack them. Never knows config.json, or how anything is shown.

What the other parts use is named here. Importing it brings neither the HTTP library nor tarfile: `locald run`
of a cached image needs neither.
"""

from locald.images.files import remove_tree
from locald.images.owners import Owners
from locald.images.pull import Policy, Progress, pull
from locald.images.store import Image, Layer, Removed, Store
from locald.images.trees import RootRunner, Tree, cached_tree, unpack

__all__ = [
    "Image",
    "Layer",
    "Owners",
    "Policy",
    "Progress",
    "Removed",
    "RootRunner",
    "Store",
    "Tree",
    "cached_tree",
    "pull",
    "remove_tree",
    "unpack",
]
