"""Published checkpoints: files of other projects, read into folders that the rest of the package understands."""
