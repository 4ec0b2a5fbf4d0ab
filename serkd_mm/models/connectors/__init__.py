# Copyright (c) The serkd_mm authors. All rights reserved.
from .feature_map_tokenizer import FeatureMapTokenizer
from .superpixel_tokenizer import SuperpixelTokenizer
from .token_aligner import TokenAligner
from .token_map import TokenMap
from .token_resizer import TokenResizer
from .tokens_to_maps import TokensToMaps
from .visual_tokens import VisualTokens

__all__ = [
    'FeatureMapTokenizer',
    'SuperpixelTokenizer',
    'TokenAligner',
    'TokenMap',
    'TokenResizer',
    'TokensToMaps',
    'VisualTokens',
]
