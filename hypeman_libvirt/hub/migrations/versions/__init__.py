"""One file per revision; ``schema.HEAD`` names the newest."""
