"""What several commands do alike: the stages of a run, and what they find of earlier ones."""
