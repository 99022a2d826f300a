"""Interactive views in a notebook: the volume viewer and the prompt lab."""
