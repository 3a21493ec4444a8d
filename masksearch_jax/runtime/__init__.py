"""What every command needs around its work: nothing here knows models, data or search."""
