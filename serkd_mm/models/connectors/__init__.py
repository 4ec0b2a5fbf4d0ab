# Copyright (c) The serkd_mm authors. All rights reserved.
from .superpixel_tokenizer import SuperpixelTokenizer
from .visual_tokens import TokenMap, VisualTokens

__all__ = ['SuperpixelTokenizer', 'TokenMap', 'VisualTokens']
