# Copyright (c) The serkd_mm authors. All rights reserved.
"""Looking at a pair of networks before training, and at runs after."""

from ..engine.config_file import read_config
from .config_text import config_text
from .findings import PairReport
from .pair import CheckOptions, check_pair
from .pair_tables import save_pair, show_pair
from .suggest import Suggestion, suggest
from .trace import NetworkTrace, TokenSource, trace_network
from .zoo import ZooNetwork, find_network

__all__ = [
    'CheckOptions',
    'NetworkTrace',
    'PairReport',
    'Suggestion',
    'TokenSource',
    'ZooNetwork',
    'check_pair',
    'config_text',
    'find_network',
    'read_config',
    'save_pair',
    'show_pair',
    'suggest',
    'trace_network',
]
