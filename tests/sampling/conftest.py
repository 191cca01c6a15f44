"""Tiny models."""

from tests.helpers.tiny_models import one_thread, tiny

__all__ = ["one_thread", "tiny"]
