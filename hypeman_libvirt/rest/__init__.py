"""HTTP: Falcon resources, pydantic bodies, tokens and the Error body."""
