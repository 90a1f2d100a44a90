"""Segue's tests, by room."""
