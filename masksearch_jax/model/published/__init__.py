"""Published checkpoints: models and adapters in the file formats of other projects, read and written."""
