"""Small helpers that every other package uses: the error type, atomic files, YAML schemas, name look-up."""
