"""Schema changes of the hub's database.

Each only adds, so that hubs of the release before run on.
"""
