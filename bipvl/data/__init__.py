"""Data sets: their specs, files, splits, prompts, label codes and transforms."""
