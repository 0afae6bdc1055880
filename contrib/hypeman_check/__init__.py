"""Runs every check of the project and says what came of it; contrib/check is its command line.

Needs nothing but Python's standard library, for it runs before anything is installed.
"""
