"""The library inside other people's stacks: one call puts it there, another takes it out."""
