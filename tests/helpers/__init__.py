"""Shared by tests of several folders; imported as any other package."""
