"""The checksums of an object, computed as its bytes go by."""

from __future__ import annotations

import base64
import hashlib

import google_crc32c


class Checksums:
    """Size, crc32c (base64 of the big-endian value, as in Cloud Storage) and sha256 (hex)."""

    def __init__(self) -> None:
        self.size = 0
        self._crc = 0
        self._sha = hashlib.sha256()

    def update(self, chunk: bytes) -> None:
        """Take in the next bytes."""
        self.size += len(chunk)
        self._crc = google_crc32c.extend(self._crc, chunk)
        self._sha.update(chunk)

    @property
    def crc32c(self) -> str:
        """Return the crc32c of what was taken in so far."""
        return base64.b64encode(self._crc.to_bytes(4, "big")).decode()

    @property
    def sha256(self) -> str:
        """Return the sha256 of what was taken in so far."""
        return self._sha.hexdigest()
