"""One run: prepare the data, train, predict, evaluate, and record what was done."""
