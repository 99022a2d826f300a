"""The network and its losses, as pure PyTorch modules: they read no files and know no data set."""
