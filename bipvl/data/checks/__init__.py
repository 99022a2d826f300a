"""Find every issue in the files of a data set, before anything is computed from them."""
