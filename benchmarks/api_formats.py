"""Hooks of schemathesis (``SCHEMATHESIS_HOOKS``): what the document calls a file is one, as often whole as damaged."""

from __future__ import annotations

import base64

import schemathesis
from hypothesis import strategies as st

from benchmarks.hostile import FILES, damaged_files

IMAGES = st.sampled_from(FILES) | damaged_files()

schemathesis.openapi.format("binary", IMAGES)
schemathesis.openapi.format("byte", IMAGES.map(lambda file: base64.b64encode(file).decode()))
