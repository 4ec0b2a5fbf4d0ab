# SeRKD on 5 labels per class of the digits.
# Top-1: table of tools/ablate.py, see ../README.md.
_base_ = '../quickstart/serkd.py'
