"""What the project is about: rules and use cases of PCI passthrough. Opens nothing."""
