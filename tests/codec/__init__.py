"""Tests of genmodel.codec and genmodel.errors."""
