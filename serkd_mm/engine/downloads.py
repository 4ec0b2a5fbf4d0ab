# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations


class DownloadError(OSError):
    """A checkpoint or dataset that cannot be had from where it is."""


def download_error(
    error: Exception, url: str | None, key: str, part: str
) -> DownloadError:
    """Say what could not be downloaded and how to go on without.

    Args:
        error: What urllib raised, which names no address.
        url: The address, where it is known.
        key: Key of the config whose value the address is, or ''.
        part: Part of the config that needs the file, or ''.
    """
    if key:
        cure = f'set {key} to the path of a copy of it'
    elif 'dataset' in part:
        cure = f'put a copy of it into {part}.data_root'
    else:
        cure = f'put a copy of it where {part or "the config"} looks for it'
    return DownloadError(
        f'cannot download {url or "a file"} ({error}); {cure}'
    )
