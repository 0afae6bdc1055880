"""Schema changes, so that every release opens the registries of the releases before it."""
