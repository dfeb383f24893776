"""One module a command, called as it; its `command` is what click runs."""
