"""Fuzzers: readers of files get mutated inputs, and must reject or read each of them at once."""
