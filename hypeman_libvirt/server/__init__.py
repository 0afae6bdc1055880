"""The servers, their connections and the log."""
