"""Maintainer tools: pinned requirements, generated docs, screenshots."""
