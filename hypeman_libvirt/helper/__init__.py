"""The root helper: a handful of writes that only root may make, each checked against live sysfs."""
