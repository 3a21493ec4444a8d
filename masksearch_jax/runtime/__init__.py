"""Infrastructure that every command needs. Nothing here depends on models, data or search."""
