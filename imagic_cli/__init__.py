"""Imagic (Kawar et al., CVPR 2023): edit one photograph from one sentence."""

__version__ = "0.1.0"
