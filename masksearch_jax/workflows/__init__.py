"""What the commands do: run the stages of a run, and reuse what earlier runs left in the workdir."""
