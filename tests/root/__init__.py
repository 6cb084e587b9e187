"""Tests of the engine on real processes: they need root and ptrace, and no Docker."""
