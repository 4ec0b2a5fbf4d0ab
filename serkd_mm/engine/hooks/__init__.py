# Copyright (c) The serkd_mm authors. All rights reserved.
from .atomic_checkpoint_hook import AtomicCheckpointHook

__all__ = ['AtomicCheckpointHook']
